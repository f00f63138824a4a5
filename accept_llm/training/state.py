"""The resumable state of a run: one file, replaced atomically, so that a kill at any moment
leaves the older one whole.

Schedule, data order and every draw are functions of the step and the seed; the state has no
more of them than the step.
"""

import os
from pathlib import Path
from typing import Any

import torch

from accept_llm.errors import RecipeError

FILE = "state.pt"


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Tensors and plain values; written beside the old file, synced, then put in its place."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{FILE}.new"
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / FILE)
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def load_state(folder: Path) -> dict[str, Any] | None:
    """The last state, or None when the run was stopped before its first one."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        first = (str(error).splitlines() or ["it is cut short"])[0]
        raise RecipeError([f"resume: {path} cannot be read: {first}"]) from None
