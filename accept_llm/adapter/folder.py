"""The adapter: the folder `prompt/` of a run. It loads under any engine and gives the same
logits there. Owns the files; what prompt.json says is in card.py.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from accept_llm.adapter.card import CARD, Card, read_card
from accept_llm.errors import RecipeError
from accept_llm.heads import Head, head_from_card
from accept_llm.methods.base import Method
from accept_llm.methods.table import method_from_card
from accept_llm.storage import atomic_folder, home_path, whole_folder, write_json

METHOD, HEAD = "prompt.safetensors", "head.safetensors"
SHOWN = 5  # wrong tensors listed in an error


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

    def build() -> tuple[Method, Head]:
        method = method_from_card(card.method, where=f"{where}method.")
        head = head_from_card(card.head, where=f"{where}head.")
        return method, head

    with torch.device("meta"):  # nothing is allocated for sizes that the files do not have
        method, head = build()
    tensors = [
        _read_tensors(folder / name, made=module.state_dict())
        for module, name in ((method, METHOD), (head, HEAD))
    ]
    method, head = build()
    for module, found in zip((method, head), tensors, strict=True):
        module.load_state_dict(found)
    sizes = card.model
    lines = head.card_problems(
        hidden=sizes.hidden_size, vocabulary=sizes.vocab_size, classes=len(card.task.labels)
    )
    problems = [f"{where}head.{line}" for line in lines]
    if problems:
        raise RecipeError(problems)
    return Adapter(method, head, card)


load_prompt = load  # its name of before there were other methods than prompts


def _read_tensors(path: Path, *, made: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file, which must be those that prompt.json makes; {} where it makes none."""
    if not made:
        return {}
    where = f"adapter: {path.parent} is damaged or incomplete: {path.name}: "
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RecipeError([f"{where}{' '.join(str(error).split())[:300]}"]) from None
    wrong = [f"no {name}" for name in made if name not in found]
    wrong += [f"{name[:80]!r} is not of this adapter" for name in found if name not in made]
    for name, tensor in found.items():
        form, wanted = (
            f"{str(x.dtype)[6:]} {list(x.shape)}" for x in (tensor, made.get(name, tensor))
        )
        if form != wanted:
            wrong.append(f"{name} is {form}, but {CARD} makes it {wanted}")
        elif not tensor.isfinite().all():
            wrong.append(f"{name} has numbers that are not finite")
    if wrong:
        raise RecipeError([f"{where}{line}" for line in wrong[:SHOWN]])
    return found
