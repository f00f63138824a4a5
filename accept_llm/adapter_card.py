"""prompt.json, what an adapter says of itself, and whether a model is the one it was made for.

No torch, so that an adapter is refused before any weight is loaded.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from accept_llm.model_files import TOKENIZERS, ModelInfo
from accept_llm.recipe_errors import RecipeError

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


def check_fits(card: dict[str, Any], info: ModelInfo) -> None:
    """Raises RecipeError naming everything in which the model is not the adapter's."""
    theirs = {
        "hidden_size": info.hidden_size,
        "model_type": info.model_type,
        "vocab_size": info.vocab_size,
        "tokenizer": tokenizer_hash(info.folder),
    }
    wrong = [
        f"adapter: made for {key} {card['model'][key]!r}, the model {info.folder.name} has "
        f"{value!r}; allowed: the base model it was trained on ({card['model']['name']})"
        for key, value in theirs.items()
        if card["model"][key] != value
    ]
    if wrong:
        raise RecipeError(wrong)
