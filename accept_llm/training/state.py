"""The resumable state of a run: one file, replaced atomically, so that a kill at any moment
leaves the older one whole.

Schedule, data order and every draw are functions of the step and the seed; the state has no
more of them than the step.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from accept_llm import __version__
from accept_llm.errors import RecipeError
from accept_llm.runs.result import RESULT
from accept_llm.storage import atomic_file
from accept_llm.tasks.base import Example

FILE = "state.pt"


@dataclass(frozen=True)
class Origin:
    """What a run is made from, as digests by name, and by which version of this package."""

    model: Mapping[str, str]
    """The base model's weights and tokenizer."""
    rows: Mapping[str, str]
    """The examples of each split."""
    version: str = __version__

    def changes(self, stored: Mapping[str, Any], *, changed_data: bool) -> list[str]:
        """What differs from a stored one, to be noted; RecipeError for what may not differ, rows
        unless `changed_data` says that it is known."""
        problems, notes = [], []
        for name, now in self.model.items():
            if stored["model"].get(name, now) != now:
                got = f"resume: the {name} of the model is not that of the run"
                problems.append(f"{got}; allowed: the model that the state was trained on")
        for name, now in self.rows.items():
            if stored["rows"].get(name, now) == now:
                continue
            if changed_data:
                notes.append(f"the {name} rows are not those that the run began with")
            else:
                got = f"resume: the {name} rows are not those of the run"
                problems.append(f"{got}; allowed: the same rows, or --changed-data to go on")
        if problems:
            raise RecipeError(problems)
        if stored["version"] != self.version:
            notes.append(f"accept_llm is {self.version}, and was {stored['version']}")
        return notes


def digest(examples: Sequence[Example]) -> str:
    """SHA-256 of examples in their order."""
    found = hashlib.sha256()
    for example in examples:
        found.update(json.dumps([example.id, example.parts, example.label]).encode())
    return found.hexdigest()


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
    if not isinstance(state, dict) or not isinstance(state.get("best") or {}, dict):
        raise RecipeError([f"resume: {path} is damaged: it holds no state of a run"])
    for part in (state, state.get("best")):
        if part and "prompt" in part:  # as it was called before there were other methods
            part["method"] = part.pop("prompt")
    return state


def without_state(run: Path) -> str:
    """What to say of a run that was stopped before its first state; RecipeError for a finished one,
    whose state someone has taken away."""
    path = run / "state" / FILE
    if (run / RESULT).exists():
        got = f"resume: the run in {run} is finished, but {path} is not there"
        raise RecipeError([f"{got}; allowed: a run with its state, or another name"])
    return f"there is no {path} yet; the run starts at step 0"
