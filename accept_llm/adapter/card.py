"""prompt.json, what an adapter says of itself, and whether a model is the one it was made for.

No torch, so that an adapter is refused before any weight is loaded.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from accept_llm.errors import RecipeError
from accept_llm.models.folder import ModelInfo, fingerprint
from accept_llm.models.tokenizer_files import TOKENIZERS
from accept_llm.recipe.budget import PromptShape
from accept_llm.recipe.messages import parse_section
from accept_llm.recipe.method import read_shape
from accept_llm.recipe.model import ModelSpec
from accept_llm.recipe.types import Count
from accept_llm.storage import read_json

FORMAT = 3
CARD = "prompt.json"


class Section(BaseModel):
    """A part of a card. Keys that are not known stay: a later accept-llm may have added them."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class BaseModelSection(Section):
    """What the base model is known by."""

    name: str
    """As the recipe named it."""
    revision: str | None = None
    """The Hub's; None for a model that came from elsewhere."""
    model_type: str
    hidden_size: Count
    vocab_size: Count
    dtype: str
    tokenizer: str
    """SHA-256 of the tokenizer's file."""
    fingerprint: str | None = None
    """Of the weights (models/folder.py); adapters of the first weeks have none."""
    configs: dict[str, str] = {}
    """SHA-256 of what config.json and the tokenizer's settings say (`config_digests`)."""
    quantization: str | None = None
    """How the weights were held in training; another way may evaluate it."""


class TaskSection(Section):
    """What the adapter was trained for."""

    name: str
    labels: list[str]
    metric: str


class Card(Section):
    """The content of prompt.json."""

    format_version: int = FORMAT
    model: BaseModelSection
    task: TaskSection
    method: dict[str, Any]
    """What `method_from_card` needs: kind and sizes."""
    head: dict[str, Any]
    """What `head_from_card` needs: kind and arguments."""
    probe: dict[str, Any] | None = None
    """What the base model computes for a text (swarm/probe.py)."""
    step: int | None = None
    score: float | None = None


def tokenizer_hash(folder: Path) -> str:
    """SHA-256 of the tokenizer's file, so that another tokenizer is noticed."""
    for name in TOKENIZERS:
        if (folder / name).is_file():
            return hashlib.sha256((folder / name).read_bytes()).hexdigest()
    raise AssertionError(f"no tokenizer file in {folder}")


_ABOUT_THE_FILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "name_or_path")


def config_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of settings beside a model, without what they say of themselves."""
    found = {}
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            said = read_json(folder / name)
            kept = {key: value for key, value in said.items() if key not in _ABOUT_THE_FILE}
            found[name] = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    return found


def changed_configs(card: "Card", folder: Path) -> list[str]:
    """The files of settings that are not as the adapter's training found them."""
    now = config_digests(folder)
    return [name for name, known in card.model.configs.items() if now.get(name) != known]


def read_card(folder: Path) -> Card:
    """prompt.json, of this format or an earlier one. RecipeError where there is none, where a newer
    accept-llm wrote it, and where a field is missing or wrong, with the field."""
    path = folder / CARD
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise RecipeError(
            [f"adapter: got {folder}; allowed: a prompt folder (with {CARD})"]
        ) from None
    where = f"adapter: {path} is damaged: "
    try:
        data = json.loads(text)
    except (RecursionError, ValueError) as error:
        raise RecipeError([f"{where}not JSON ({error})"]) from None
    if not isinstance(data, dict) or "format_version" not in data:
        raise RecipeError([f"{where}format_version: missing; it must be given"])
    version = data["format_version"]
    if version not in range(1, FORMAT + 1) or isinstance(version, bool):
        todo = "; a newer accept-llm wrote it" if isinstance(version, int) else ""
        allowed = f"allowed: 1 to {FORMAT}{todo}"
        raise RecipeError([f"adapter: {folder} has format {version!r}; {allowed}"])
    data = _of_format_1(data) if version == 1 else data
    # Prompts have a scale since format 3; without one they are read as they were.
    card = parse_section(Card, {**data, "format_version": FORMAT}, where=where)
    shape = read_shape(card.method, where=f"{where}method.")
    hidden = card.model.hidden_size
    if isinstance(shape, PromptShape) and shape.hidden != hidden:
        got = f"{where}method.hidden: got {shape.hidden}"
        raise RecipeError([f"{got}; allowed: {hidden}, as model.hidden_size says"])
    return card


def _of_format_1(data: Mapping[str, Any]) -> dict[str, Any]:
    """The card in format 2: a prompt's sizes had no kind then, and weights no null."""
    new = {name: value for name, value in data.items() if name != "prompt"}
    sizes = data.get("prompt")
    if isinstance(sizes, Mapping):
        codebooks = sizes.get("prepended") or sizes.get("added")
        kind = "dept" if sizes.get("rank") else "accept" if codebooks else "pt"
        new["method"] = {"kind": kind, **sizes}
    model = data.get("model")
    if isinstance(model, Mapping):
        held = model.get("weights", "bf16")
        kept = {name: value for name, value in model.items() if name != "weights"}
        new["model"] = {**kept, "quantization": None if held == "bf16" else held}
    return new


def describe_base(spec: ModelSpec, info: ModelInfo, *, name: str) -> BaseModelSection:
    """The section of a model that a recipe names."""
    return BaseModelSection(
        name=name,
        revision=spec.revision if spec.kind == "hub" else None,
        model_type=info.model_type,
        hidden_size=info.hidden_size,
        vocab_size=info.vocab_size,
        dtype=spec.dtype,
        tokenizer=tokenizer_hash(info.folder),
        fingerprint=fingerprint(info.files),
        configs=config_digests(info.folder),
        quantization=spec.quantization,
    )


def check_fits(card: Card, spec: ModelSpec, *, info: ModelInfo) -> None:
    """Raises RecipeError naming everything in which the model is not the adapter's.

    A revision counts where both are of the Hub; a model that is stored elsewhere is known by its
    fingerprint, which earlier cards do not have.
    """
    ours, made = describe_base(spec, info, name=""), card.model
    wrong = []
    for key in BaseModelSection.model_fields:
        value, theirs = getattr(ours, key), getattr(made, key)
        unknown = key in ("revision", "fingerprint") and None in (value, theirs)
        if key in ("name", "quantization", "configs") or unknown or value == theirs:
            continue
        wrong.append(
            f"adapter: made for {key} {theirs!r}, the model {info.folder.name} has {value!r}; "
            f"allowed: the base model it was trained on ({made.name})"
        )
    if wrong:
        raise RecipeError(wrong)
