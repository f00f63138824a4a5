"""Everything that can be checked before a weight is loaded: data, model folder, sizes, the run
folder, an adapter. No torch, so that a mistake shows at once.
"""

from dataclasses import dataclass
from pathlib import Path

from accept_llm.adapter.card import check_fits, read_card
from accept_llm.data.sources import task_from
from accept_llm.data.splits import Splits, load_splits
from accept_llm.engines.check import check_here, check_weights, decide_engine
from accept_llm.errors import Problems, RecipeError
from accept_llm.models.find import inspect_model
from accept_llm.models.folder import ModelInfo, read_shapes
from accept_llm.recipe.budget import PromptShape, solve
from accept_llm.recipe.recipe import Recipe, unknown_words
from accept_llm.runs.folder import ADAPTER, check_run_folder
from accept_llm.swarm.folder import check_family
from accept_llm.tasks.base import Task


@dataclass(frozen=True)
class Checked:
    """A recipe whose data are read; `info` and `shape` are None for a model not yet here."""

    recipe: Recipe
    splits: Splits
    info: ModelInfo | None
    shape: PromptShape | None


def check(recipe: Recipe, engine_kind: str = "single") -> Checked:
    """Reads the task's rows and looks at the model; RecipeError with the problems of both."""
    problems = Problems()
    splits = info = shape = None
    with problems.catch():
        splits = load_splits(recipe.task, seed=recipe.train.seed)
    with problems.catch():
        _check_words(recipe, task_from(recipe.task))
    with problems.catch():
        info = inspect_model(recipe.model)
        if info and engine_kind == "petals":
            check_family(info)
        shape = prompt_shape(recipe, info) if info else None
    problems.check()
    assert splits is not None
    return Checked(recipe, splits, info, shape)


def check_train(recipe: Recipe, launched: str, *, resume: bool) -> Checked:
    """What can be said before training, all of it at once."""
    problems, checked = Problems(), None
    with problems.catch():
        decide_engine(recipe, launched)
    with problems.catch():
        check_run_folder(recipe, resume=resume)
    with problems.catch():
        checked = check(recipe, launched)
    problems.check()
    assert checked is not None
    return checked


def _check_words(recipe: Recipe, task: Task) -> None:
    if recipe.head.kind in ("label_words", "choice"):
        unknown = list(unknown_words(recipe.head, task.labels))
        if unknown:
            raise RecipeError(unknown)


def prompt_shape(recipe: Recipe, info: ModelInfo) -> PromptShape:
    """The prompt's sizes on this model, which must have room for prompt and input."""
    problems, shape = Problems(), None
    with problems.catch():
        _check_positions(recipe, info)
    layout = recipe.model.layout
    if info.architecture == "seq2seq" and layout not in (None, "padded"):
        problems.lines.append(
            f"model.layout: got {layout!r}; allowed for an encoder-decoder: padded"
        )
    with problems.catch():
        positions = recipe.task.max_length
        shape = solve(recipe.prompt, hidden=info.hidden_size, positions=positions)
    problems.check()
    assert shape is not None
    return shape


def _check_positions(recipe: Recipe, info: ModelInfo) -> None:
    generated = recipe.head.max_new_tokens if recipe.head.kind == "generate" else 0
    longest = recipe.prompt_length + recipe.task.max_length + generated
    if info.max_positions is not None and longest > info.max_positions:
        parts = f"{recipe.prompt_length} prompt tokens"
        parts += f" and {generated} of an answer" if generated else ""
        raise RecipeError(
            [
                f"task.max_length: got {recipe.task.max_length} with {parts}; allowed: at most "
                f"{info.max_positions} positions in all ({info.folder.name})"
            ]
        )


# --- the adapter ------------------------------------------------------------------------


def check_adapter(recipe: Recipe, info: ModelInfo | None, engine_kind: str = "single") -> None:
    """Whether the run's adapter is whole, and made for this model and task, and whether the engine
    can be used here."""
    folder = recipe.run_dir / ADAPTER
    card, problems = read_card(folder), Problems()
    files = ["prompt", "head"] if card["head"].get("kind") == "linear" else ["prompt"]
    for name in files:
        with problems.catch():
            _check_tensors(folder / f"{name}.safetensors")
    with problems.catch():
        if info is not None:
            check_fits(card, recipe.model, info)
    with problems.catch():
        check_weights(recipe, engine_kind)
        check_here(recipe, engine_kind)
    labels = list(task_from(recipe.task).labels)
    theirs = card["task"].get("labels")
    if labels != theirs:
        problems.lines.append(f"adapter: made for the labels {theirs}, the task has {labels}")
    longest = card["prompt"].get("positions", 0)
    if recipe.task.max_length > longest:
        got = f"task.max_length: got {recipe.task.max_length}"
        problems.lines.append(f"{got}; allowed: at most {longest}, as the adapter was trained")
    problems.check()


def _check_tensors(path: Path) -> None:
    try:
        read_shapes(path)
    except (OSError, ValueError) as error:
        why = f"{path} is missing" if isinstance(error, FileNotFoundError) else str(error)
        raise RecipeError([f"adapter: {why}"]) from None
