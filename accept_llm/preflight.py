"""Everything that can be checked before a weight is loaded: data, model folder, sizes, the run
folder. No torch, so that a mistake shows at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from accept_llm.data import Splits, load_splits
from accept_llm.models import ModelInfo, inspect_model
from accept_llm.prompts.budget import PromptShape, solve
from accept_llm.recipe import Recipe, parse_recipe
from accept_llm.recipe_errors import RecipeError

RECIPE_FILE = "recipe.yaml"


@dataclass(frozen=True)
class Checked:
    """A recipe whose data are read; `info` and `shape` are None for a model not yet here."""

    recipe: Recipe
    splits: Splits
    info: ModelInfo | None
    shape: PromptShape | None


def check(recipe: Recipe) -> Checked:
    """Reads the task's rows and looks at the model; RecipeError with the problems of both."""
    problems: list[str] = []
    splits = info = shape = None
    try:
        splits = load_splits(recipe.task, seed=recipe.train.seed)
    except RecipeError as error:
        problems += error.problems
    try:
        info = inspect_model(recipe.model)
        shape = prompt_shape(recipe, info) if info else None
    except RecipeError as error:
        problems += error.problems
    if problems:
        raise RecipeError(problems)
    assert splits is not None
    return Checked(recipe, splits, info, shape)


def prompt_shape(recipe: Recipe, info: ModelInfo) -> PromptShape:
    """The prompt's sizes on this model, which must have room for prompt and input."""
    longest = recipe.prompt_length + recipe.task.max_length
    if info.max_positions is not None and longest > info.max_positions:
        raise RecipeError(
            [
                f"task.max_length: got {recipe.task.max_length} with {recipe.prompt_length} "
                f"prompt tokens; allowed: at most {info.max_positions} positions in all "
                f"({info.folder.name})"
            ]
        )
    return solve(recipe.prompt, hidden=info.hidden_size, positions=recipe.task.max_length)


def decide_engine(recipe: Recipe, launched: str) -> str:
    """The launcher decides; a recipe that insists on another engine is refused."""
    wanted = recipe.engine.kind if recipe.engine else launched
    if wanted != launched:
        commands = {
            "single": "accept-llm train RECIPE, or python launchers/single_gpu.py RECIPE",
            "fsdp2": "accelerate launch --num_processes N launchers/fsdp.py RECIPE",
        }
        raise RecipeError(
            [
                f"engine.kind: got {wanted!r}, but this launcher runs {launched!r}; use: {commands[wanted]}"
            ]
        )
    return launched


def check_run_folder(recipe: Recipe, *, resume: bool) -> None:
    """An existing run is never overwritten; a resumed one must have the same recipe."""
    folder = recipe.run_dir
    if not folder.exists():
        return
    if not resume:
        raise RecipeError(
            [
                f"name: the run folder {folder} exists and is left as it is; allowed: another "
                "name (name=...), or --resume to go on with it"
            ]
        )
    saved = folder / RECIPE_FILE
    if not saved.is_file():
        raise RecipeError([f"resume: {folder} has no {RECIPE_FILE}; it is not a run folder"])
    before, now = read_saved_recipe(folder).model_dump(), recipe.model_dump()
    changes = _differences(before, now)
    if changes:
        raise RecipeError([f"resume: {line}; allowed: the recipe of the run" for line in changes])


def read_saved_recipe(folder: Path) -> Recipe:
    """The resolved recipe of a run folder."""
    path = folder / RECIPE_FILE
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise RecipeError(
            [f"run: got {folder}; allowed: a run folder (with {RECIPE_FILE})"]
        ) from None
    except yaml.YAMLError:
        raise RecipeError([f"run: {path} is not YAML"]) from None
    return parse_recipe(data, source=str(path))


def _differences(before: Any, now: Any, where: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        parts = [_differences(before.get(k), now.get(k), f"{where}.{k}".strip(".")) for k in keys]
        return [line for part in parts for line in part]
    return [] if before == now else [f"{where}: was {before!r}, is {now!r}"]
