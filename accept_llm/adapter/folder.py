"""The adapter: the folder `prompt/` of a run. It loads under any engine and gives the same
logits there. Owns the files; what prompt.json says is in adapter_card.py.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from accept_llm.adapter.card import CARD, FORMAT, read_card
from accept_llm.errors import RecipeError
from accept_llm.heads import Choice, Generate, Head, LabelWords, LinearHead
from accept_llm.methods.prompts import Prompt
from accept_llm.recipe.budget import CodebookShape, PromptShape
from accept_llm.storage import atomic_folder, write_json

PROMPT, HEAD = "prompt.safetensors", "head.safetensors"


@dataclass(frozen=True)
class Adapter:
    """A prompt, its head, and prompt.json as a dict."""

    prompt: Prompt
    head: Head
    card: dict[str, Any]


def head_card(head: Head) -> dict[str, Any]:
    """What is needed to build the head again."""
    if isinstance(head, LabelWords):
        return {"kind": "label_words", "token_ids": head.token_ids.tolist()}
    if isinstance(head, Choice):
        return {"kind": "choice", "choices": [list(choice) for choice in head.choices]}
    if isinstance(head, Generate):
        how = head.generation
        sizes = {"max_new_tokens": how.limit, "num_beams": how.beams, "end": how.end}
        return {"kind": "generate", **sizes}
    classes, hidden = head.linear.weight.shape
    return {
        "kind": "linear",
        "hidden": hidden,
        "classes": 0 if head.is_score else classes,
        "bias": head.linear.bias is not None,
    }


def _head(card: dict[str, Any]) -> Head:
    sizes = {name: value for name, value in card.items() if name != "kind"}
    kinds: dict[str, Callable[..., Head]] = {
        **{"linear": LinearHead, "label_words": LabelWords},
        **{"choice": Choice, "generate": Generate},
    }
    return kinds[card["kind"]](**sizes)


def save_adapter(
    folder: Path, *, prompt: dict[str, Any], head: dict[str, Any], card: dict[str, Any]
) -> None:
    """Writes the folder anew, in the place of an older one.

    `prompt` and `head` are state dicts; a head without numbers writes no file.
    """
    with atomic_folder(folder, replace=True) as draft:
        save_file(prompt, draft / PROMPT)
        if head:
            save_file(head, draft / HEAD)
        write_json(draft / CARD, {"format_version": FORMAT, **card})


def load_prompt(folder: str | Path) -> Adapter:
    """Reads an adapter folder; raises RecipeError where it is missing, damaged or too new."""
    folder = Path(folder)
    card = read_card(folder)
    shape = _shape(card["prompt"])
    prompt = Prompt(shape)
    spec = card["head"]
    head = _head(spec)
    try:
        prompt.load_state_dict(load_file(folder / PROMPT))
        if spec["kind"] == "linear":
            head.load_state_dict(load_file(folder / HEAD))
    except (OSError, SafetensorError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise RecipeError([f"adapter: {folder} is damaged or incomplete: {first}"]) from None
    return Adapter(prompt, head, card)


def _shape(data: dict[str, Any]) -> PromptShape:
    books = {k: CodebookShape(**data[k]) if data[k] else None for k in ("prepended", "added")}
    return PromptShape(**{**data, **books})


def shape_card(shape: PromptShape) -> dict[str, Any]:
    """The sizes of a prompt as JSON."""
    return dataclasses.asdict(shape)
