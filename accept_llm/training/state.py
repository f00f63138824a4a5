"""The resumable state of a run: one file, replaced atomically, so that a kill at any moment
leaves the older one whole.

Schedule, data order and every draw are functions of the step and the seed; the state has no
more of them than the step.
"""

import io
from pathlib import Path
from typing import Any

import torch

from accept_llm.errors import RecipeError
from accept_llm.storage import atomic_file

FILE = "state.pt"


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values in the place of the older state."""
    whole = io.BytesIO()  # torch would hide a full disk behind errors of its own
    torch.save(state, whole)
    with atomic_file(folder / FILE) as file:
        file.write(whole.getbuffer())


def load_state(folder: Path) -> dict[str, Any] | None:
    """The last state, or None when the run was stopped before its first one."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        first = (str(error).splitlines() or ["it is cut short"])[0]
        raise RecipeError([f"resume: {path} cannot be read: {first}"]) from None
    for part in (state, state.get("best")):
        if part and "prompt" in part:  # as it was called before there were other methods
            part["method"] = part.pop("prompt")
    return state
