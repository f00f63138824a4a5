"""prompt.json, what an adapter says of itself, and whether a model is the one it was made for.

No torch, so that an adapter is refused before any weight is loaded.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from accept_llm.errors import RecipeError
from accept_llm.models.folder import TOKENIZERS, ModelInfo, fingerprint
from accept_llm.recipe.model import ModelSpec

FORMAT = 1
CARD = "prompt.json"
SECTIONS = ("model", "task", "prompt", "head")


def tokenizer_hash(folder: Path) -> str:
    """SHA-256 of the tokenizer's file, so that another tokenizer is noticed."""
    for name in TOKENIZERS:
        if (folder / name).is_file():
            return hashlib.sha256((folder / name).read_bytes()).hexdigest()
    raise AssertionError(f"no tokenizer file in {folder}")


def read_card(folder: Path) -> dict[str, Any]:
    """prompt.json, checked for its format version and for what every reader needs of it."""
    try:
        card = json.loads((folder / CARD).read_text())
        version = card["format_version"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RecipeError(
            [f"adapter: got {folder}; allowed: a prompt folder (with {CARD})"]
        ) from None
    if version != FORMAT:
        todo = "; a newer accept-llm wrote it" if isinstance(version, int) else ""
        raise RecipeError([f"adapter: {folder} has format {version!r}; allowed: {FORMAT}{todo}"])
    gone = [key for key in SECTIONS if not isinstance(card.get(key), dict)]
    if gone:
        raise RecipeError([f"adapter: {folder / CARD} is damaged: no {', '.join(gone)}"])
    return card


def base_model(spec: ModelSpec, info: ModelInfo) -> dict[str, Any]:
    """What an adapter's base model is known by; the revision is the Hub's, else None."""
    return {
        "revision": spec.revision if spec.kind == "hub" else None,
        "model_type": info.model_type,
        "hidden_size": info.hidden_size,
        "vocab_size": info.vocab_size,
        "dtype": spec.dtype,
        "tokenizer": tokenizer_hash(info.folder),
        "fingerprint": fingerprint(info.files),
    }


def check_fits(card: dict[str, Any], spec: ModelSpec, info: ModelInfo) -> None:
    """Raises RecipeError naming everything in which the model is not the adapter's.

    A revision counts where both are of the Hub; a model that is stored elsewhere is known by its
    fingerprint, which earlier cards do not have.
    """
    ours, made = base_model(spec, info), card["model"]
    unknown = {key for key in ("revision", "fingerprint") if None in (made.get(key), ours[key])}
    wrong = [
        f"adapter: made for {key} {made.get(key)!r}, the model {info.folder.name} has "
        f"{value!r}; allowed: the base model it was trained on ({made.get('name')})"
        for key, value in ours.items()
        if key not in unknown and made.get(key) != value
    ]
    if wrong:
        raise RecipeError(wrong)
