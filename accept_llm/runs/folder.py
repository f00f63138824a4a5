"""The run folder: when a run may write it, and how it is read again."""

import os
from pathlib import Path
from typing import Any
from accept_llm.recipe.engine import PetalsEngine
from accept_llm.recipe.recipe import Recipe
from accept_llm.recipe.recipe import read_recipe
from accept_llm.errors import RecipeError


RECIPE_FILE = "recipe.yaml"
ADAPTER = "prompt"


# --- the run folder ---------------------------------------------------------------------


def check_run_folder(recipe: Recipe, *, resume: bool) -> None:
    """An existing run is never overwritten; a resumed one must have the same recipe."""
    folder = recipe.run_dir
    if not folder.exists() or (resume and folder.is_dir() and not any(folder.iterdir())):
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
    before, now = (_lasting(r) for r in (read_recipe(folder / RECIPE_FILE), recipe))
    changes = _differences(before, now)
    if changes:
        raise RecipeError([f"resume: {line}; allowed: the recipe of the run" for line in changes])


def _lasting(recipe: Recipe) -> dict[str, Any]:
    """A recipe without what a swarm that was started again may have changed."""
    found = recipe.model_dump()
    if isinstance(recipe.engine, PetalsEngine):
        found["engine"] = {name: found["engine"][name] for name in ("kind", "prefix", "wire")}
    return found


def _check_writable(folder: Path) -> None:
    above = next(path for path in folder.absolute().parents if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        what = "cannot be written to" if above.is_dir() else "is a file"
        raise RecipeError([f"output_dir: got {folder.parent}, but {above} {what}"])


def read_run(folder: Path) -> Recipe:
    """The recipe of a run folder, with the name and place that the folder has now."""
    if not (folder / RECIPE_FILE).is_file():
        what = "has no" if folder.is_dir() else "does not exist; it would have a"
        raise RecipeError([f"run: {folder} {what} {RECIPE_FILE}; allowed: a run folder"])
    return relocate(read_recipe(folder / RECIPE_FILE), folder)


def relocate(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe of a run whose folder may have been renamed, by any name a folder may have."""
    here = folder.resolve()
    return recipe.model_copy(update={"name": here.name, "output_dir": str(here.parent)})


def _differences(before: Any, now: Any, where: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        parts = [_differences(before.get(k), now.get(k), f"{where}.{k}".strip(".")) for k in keys]
        return [line for part in parts for line in part]
    return [] if before == now else [f"{where}: was {before!r}, is {now!r}"]
