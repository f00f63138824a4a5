"""The adapter: the folder `prompt/` of a run. It loads under any engine and gives the same
logits there. Owns the files; what prompt.json says is in card.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from accept_llm.adapter.card import CARD, Card, read_card
from accept_llm.errors import RecipeError
from accept_llm.heads import Head, head_from_card
from accept_llm.methods.base import Method
from accept_llm.methods.table import method_from_card
from accept_llm.storage import atomic_folder, home_path, whole_folder, write_json

METHOD, HEAD = "prompt.safetensors", "head.safetensors"


@dataclass(frozen=True)
class Adapter:
    """A trained method, its head, and prompt.json."""

    method: Method
    head: Head
    card: Card

    @property
    def prompt(self) -> Method:
        """The method, by its name of before there were others than prompts."""
        return self.method


def save_adapter(
    folder: Path, *, method: dict[str, Tensor], head: dict[str, Tensor], card: Card
) -> None:
    """Writes the folder anew, in the place of an older one.

    `method` and `head` are state dicts; a head without parameters writes no file.
    """
    with atomic_folder(folder, replace=True) as draft:
        (draft / METHOD).write_bytes(save(method))
        if head:
            (draft / HEAD).write_bytes(save(head))
        write_json(draft / CARD, card.model_dump(mode="json"))


def load(folder: str | Path) -> Adapter:
    """Reads an adapter folder; raises RecipeError where it is missing, damaged or too new."""
    folder = whole_folder(home_path(folder))
    card = read_card(folder)
    where = f"adapter: {folder / CARD} is damaged: "
    method = method_from_card(card.method, where=f"{where}method.")
    head = head_from_card(card.head, where=f"{where}head.")
    for module, name in ((method, METHOD), (head, HEAD)):
        if module.state_dict():
            _load_tensors(module, folder / name)
    return Adapter(method, head, card)


load_prompt = load  # its name of before there were other methods than prompts


def _load_tensors(module: nn.Module, path: Path) -> None:
    try:
        tensors: dict[str, Any] = load_file(path)
        module.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError) as error:
        what = " ".join(str(error).split())[:300]
        message = f"adapter: {path.parent} is damaged or incomplete: {path.name}: {what}"
        raise RecipeError([message]) from None
