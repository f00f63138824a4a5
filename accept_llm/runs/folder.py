"""The run folder: when a run may write it, and how it is read again."""

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from accept_llm.errors import Problems, RecipeError
from accept_llm.ranks import is_first
from accept_llm.recipe.recipe import Recipe, load_recipe
from accept_llm.recipe.text import parse_overrides
from accept_llm.storage import home_path

RECIPE_FILE = "recipe.yaml"
LOCK = ".lock"
ADAPTER = "prompt"
_EVALUATED = ("model.*", "task.*", "train.eval_batch_size")
_PREDICTED = ("model.*", "task.max_length", "task.cue", "train.eval_batch_size")
"""The parts of a recipe that evaluating and predicting read; on a swarm, engine.* too."""
_ONE_SPLIT = {
    "task.shots": "train",
    **{f"task.{split}_limit": split for split in ("train", "validation", "test")},
}


def check_run_folder(recipe: Recipe, *, resume: bool) -> None:
    """An existing run is never overwritten; a resumed one must have the same recipe."""
    folder = recipe.run_dir
    if not folder.exists() or (resume and _is_bare(folder)):
        _check_writable(folder)
        return
    if not resume:
        raise RecipeError(
            [
                f"name: the run folder {folder} exists and is left as it is; allowed: another "
                "name (name=...), or --resume to go on with it"
            ]
        )
    if not (folder / RECIPE_FILE).is_file():
        raise RecipeError([f"resume: {folder} has no {RECIPE_FILE}; it is not a run folder"])
    if is_first():
        lock_run(folder).release()
    stored, _ = load_recipe(folder / RECIPE_FILE, earlier=True)
    before, now = (_lasting(r) for r in (stored, recipe))
    if recipe.train.steps > stored.train.steps:  # a run may be made longer
        before["train"]["steps"] = recipe.train.steps
    changes = _differences(before, now)
    if changes:
        raise RecipeError([f"resume: {line}; allowed: the recipe of the run" for line in changes])


def _is_bare(folder: Path) -> bool:
    """Whether a run was killed before it had written its recipe."""
    return folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir())


def lock_run(folder: Path) -> FileLock:
    """Keeps other processes from writing the run folder, until it is released or this process ends;
    RecipeError where one has it already."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        got = f"name: another process is writing the run folder {folder}"
        raise RecipeError([f"{got}; allowed: another name, or to wait for its end"]) from None
    except OSError as error:
        got = f"output_dir: the run folder {folder} cannot be written to ({error.strerror})"
        raise RecipeError([f"{got}; allowed: one that can"]) from None
    return lock


def _lasting(recipe: Recipe) -> dict[str, Any]:
    """A recipe without what may differ when a run goes on."""
    found = recipe.model_dump()
    if recipe.engine is not None:
        found["engine"] = recipe.engine.lasting()
    return found


def _check_writable(folder: Path) -> None:
    above = next(path for path in folder.absolute().parents if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        what = "cannot be written to" if above.is_dir() else "is a file"
        raise RecipeError([f"output_dir: got {folder.parent}, but {above} {what}"])


def read_run(
    folder: Path, overrides: Sequence[str] = (), *, split: str | None = None, remote: bool = False
) -> tuple[Recipe, list[str]]:
    """The recipe of a run folder with changes, the name and place that the folder has now, and
    notes for the user; `split` is what is read of its rows, `remote` whether a swarm computes."""
    folder = home_path(folder)
    if not (folder / RECIPE_FILE).is_file():
        what = "has no" if folder.is_dir() else "does not exist; it would have a"
        raise RecipeError([f"run: {folder} {what} {RECIPE_FILE}; allowed: a run folder"])
    _refuse_idle(overrides, split, remote=remote)
    recipe, notes = load_recipe(folder / RECIPE_FILE, overrides, earlier=True)
    return relocate(recipe, folder), notes


def _refuse_idle(overrides: Sequence[str], split: str | None, *, remote: bool) -> None:
    """RecipeError for overrides that change nothing of what an adapter answers, or how."""
    used = (*(_EVALUATED if split else _PREDICTED), *(["engine.*"] if remote else []))
    problems = Problems()
    for change in parse_overrides(overrides, Problems()):  # others' mistakes are said later
        key = ".".join(change.path)
        idle = _ONE_SPLIT.get(key, split) != split
        known = any(fnmatchcase(key, part) or f"{key}.*" == part for part in used)
        if idle or not known:
            got = f"{key}: got {change.text!r}, but an adapter is used as it was trained"
            rows = f", on {split} rows" if idle else ""
            problems.lines.append(f"{got}{rows}; allowed: {', '.join(used)}")
    problems.check()


def relocate(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe of a run whose folder may have been renamed, by any name a folder may have."""
    here = folder.resolve()
    return recipe.model_copy(update={"name": here.name, "output_dir": str(here.parent)})


def _differences(before: Any, now: Any, *, where: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        parts = [
            _differences(before.get(k), now.get(k), where=f"{where}.{k}".strip(".")) for k in keys
        ]
        return [line for part in parts for line in part]
    return [] if before == now else [f"{where}: was {before!r}, is {now!r}"]
