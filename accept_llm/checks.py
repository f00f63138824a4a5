"""Everything that can be checked before a weight is loaded: data, model folder, sizes, the run
folder, an adapter. No torch, so that a mistake shows at once.

`Prepared` is what was found out on the way; plan, training and evaluation take it from there.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from accept_llm.adapter.card import Card, check_fits, read_card
from accept_llm.data.sources import task_from
from accept_llm.data.splits import Splits, load_splits
from accept_llm.engines.check import check_engine, decide_engine
from accept_llm.engines.facts import facts_of
from accept_llm.errors import Problems, RecipeError
from accept_llm.models.families import check_type
from accept_llm.models.find import inspect_model
from accept_llm.models.folder import ModelInfo
from accept_llm.models.headers import read_shapes
from accept_llm.recipe.budget import Shape
from accept_llm.recipe.head import HEAD_SPECS
from accept_llm.recipe.method import read_shape
from accept_llm.recipe.recipe import Recipe
from accept_llm.runs.folder import ADAPTER, check_run_folder
from accept_llm.storage import whole_folder
from accept_llm.swarm.folder import check_family
from accept_llm.tasks.base import Task


@dataclass(frozen=True)
class Prepared:
    """A recipe with its task, its rows, its model and the sizes of its method."""

    recipe: Recipe
    task: Task
    splits: Splits | None
    """None where the rows were not asked for."""
    model: ModelInfo | None
    """None for a model that is not on this machine yet."""
    shape: Shape | None
    """None as long as the model is."""

    @property
    def rows(self) -> Splits:
        """The splits, where they were asked for."""
        assert self.splits is not None, "the rows were not read"
        return self.splits

    def with_model(self, model: ModelInfo) -> "Prepared":
        """The same with a model that was fetched; RecipeError where it and the recipe do not go
        together."""
        check_type(model)
        return replace(self, model=model, shape=size_method(self.recipe, model))


def prepare(recipe: Recipe, engine_kind: str, *, read_rows: bool = True) -> Prepared:
    """Reads the task's rows and looks at the model; RecipeError with the problems of both."""
    problems, task = Problems(), None
    splits = model = shape = None
    with problems.catch():
        task = task_from(recipe.task)
        _check_words(recipe, task)
    with problems.catch():
        if task and read_rows:
            splits = load_splits(recipe.task, seed=recipe.train.seed, task=task)
    with problems.catch():
        model = inspect_model(recipe.model)
        if model:
            check_type(model)
        if model and not facts_of(engine_kind).is_local:
            check_family(model)
        shape = size_method(recipe, model) if model else None
    problems.check()
    assert task is not None
    return Prepared(recipe, task, splits, model, shape)


def prepare_training(recipe: Recipe, launched: str, *, resume: bool) -> Prepared:
    """What can be said before training, all of it at once."""
    problems, prepared = Problems(), None
    with problems.catch():
        decide_engine(recipe, launched)
    with problems.catch():
        check_run_folder(recipe, resume=resume)
    with problems.catch():
        prepared = prepare(recipe, launched)
    problems.check()
    assert prepared is not None
    return prepared


def prepare_evaluation(recipe: Recipe, engine_kind: str, *, read_rows: bool) -> Prepared:
    """What can be said before an adapter is used: its files, and whether it was made for this model
    and task."""
    card, problems, prepared = read_card(whole_folder(recipe.run_dir / ADAPTER)), Problems(), None
    with problems.catch():
        prepared = prepare(recipe, engine_kind, read_rows=read_rows)
    problems.check()
    assert prepared is not None
    with problems.catch():
        check_adapter(prepared, card)
    with problems.catch():
        check_engine(recipe, engine_kind)
    problems.check()
    return prepared


def _check_words(recipe: Recipe, task: Task) -> None:
    problems = list(recipe.head.problems(task.labels))
    if problems:
        raise RecipeError(problems)


def size_method(recipe: Recipe, model: ModelInfo) -> Shape:
    """The method's sizes on this model, which must have room for prompt and input."""
    problems, shape = Problems(), None
    with problems.catch():
        _check_positions(recipe, model)
    layout = recipe.model.layout
    if model.architecture == "seq2seq" and layout not in (None, "padded"):
        problems.lines.append(
            f"model.layout: got {layout!r}; allowed for an encoder-decoder: padded"
        )
    with problems.catch():
        shape = recipe.method.shape(
            hidden=model.hidden_size,
            positions=recipe.task.max_length,
            model_type=model.model_type,
            linears=model.linears,
        )
    problems.check()
    assert shape is not None
    return shape


def _check_positions(recipe: Recipe, model: ModelInfo) -> None:
    tokens, limit = recipe.method.tokens, recipe.head.answer_limit
    longest = tokens + recipe.task.max_length + limit
    if model.max_positions is not None and longest > model.max_positions:
        parts = f"{tokens} prompt tokens"
        parts += f" and {limit} of an answer" if limit else ""
        why = f", whose rope_type {model.rope!r} turns longer texts another way"
        raise RecipeError(
            [
                f"task.max_length: got {recipe.task.max_length} with {parts}; allowed: at most "
                f"{model.max_positions} positions in all "
                f"({model.folder.name}{why if model.rope else ''})"
            ]
        )


# --- the adapter ------------------------------------------------------------------------


def check_adapter(prepared: Prepared, card: Card) -> None:
    """Whether the run's adapter is whole, and made for this model and task; RecipeError with every
    problem."""
    recipe, problems = prepared.recipe, Problems()
    folder = whole_folder(recipe.run_dir / ADAPTER)
    for name in ["prompt", "head"] if _head_has_tensors(card) else ["prompt"]:
        with problems.catch():
            _check_tensors(folder / f"{name}.safetensors")
    with problems.catch():
        if prepared.model is not None:
            check_fits(card, recipe.model, info=prepared.model)
    labels, theirs = list(prepared.task.labels), card.task.labels
    if labels != theirs:
        problems.lines.append(f"adapter: made for the labels {theirs}, the task has {labels}")
    longest = read_shape(card.method).positions
    if longest is not None and recipe.task.max_length > longest:
        got = f"task.max_length: got {recipe.task.max_length}"
        problems.lines.append(f"{got}; allowed: at most {longest}, as the adapter was trained")
    problems.check()


def _head_has_tensors(card: Card) -> bool:
    kind = card.head.get("kind")
    spec = HEAD_SPECS.get(str(kind))
    if spec is None:
        got = f"adapter: head.kind: got {kind!r}"
        raise RecipeError([f"{got}; allowed: {', '.join(HEAD_SPECS)}"])
    return spec.has_parameters()


def _check_tensors(path: Path) -> None:
    try:
        read_shapes(path)
    except (OSError, ValueError) as error:
        why = f"{path} is missing" if isinstance(error, FileNotFoundError) else str(error)
        raise RecipeError([f"adapter: {why}"]) from None
