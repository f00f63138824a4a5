"""The recipe: one checked, frozen tree that says everything about a run.

Reads YAML and `a.b=c` overrides, reports every mistake at once, and prints a JSON schema.
It knows nothing of torch, models or data, so that checking a recipe is instant. Its sections
are in recipe_parts.py, recipe_prompt.py and recipe_engine.py.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError, model_validator

from accept_llm.errors import Problems, RecipeError, refusal
from accept_llm.recipe.engine import EngineSpec
from accept_llm.recipe.head import ChoiceHead, HeadSpec, LabelWordsHead, LinearHead, heads_for
from accept_llm.recipe.messages import describe, drop_foreign_keys
from accept_llm.recipe.method import PromptSpec
from accept_llm.recipe.model import ModelSpec
from accept_llm.recipe.task import FileTask, TaskSpec
from accept_llm.recipe.text import apply_override, parse_overrides, read_mapping
from accept_llm.recipe.train import Train
from accept_llm.recipe.types import Name, Spec


class Recipe(Spec):
    """Everything about a run."""

    name: Name
    """The run folder is <output_dir>/<name>; without it, the recipe's file name."""
    output_dir: str = "runs"
    model: ModelSpec
    task: TaskSpec
    prompt: PromptSpec
    head: HeadSpec = LinearHead(kind="linear")
    engine: EngineSpec | None = None
    """Only to insist on one: the launcher decides, and refuses a recipe that names another."""
    train: Train

    @property
    def run_dir(self) -> Path:
        return Path(self.output_dir) / self.name

    @property
    def prompt_length(self) -> int:
        """m: the number of prepended tokens."""
        return self.prompt.tokens

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        problems = list(_between(self.task, self.prompt, self.head, self.train))
        if problems:
            raise ValueError("\n".join(problems))
        return self


def _between(
    task: TaskSpec | None, prompt: PromptSpec | None, head: HeadSpec | None, train: Train | None
) -> Iterator[str]:
    """What must agree between sections; None stands for one that is wrong in itself."""
    if task and prompt and task.max_length < prompt.tokens:
        yield (
            f"task.max_length: got {task.max_length}; allowed: at least the prompt's length "
            f"({prompt.tokens})"
        )
    tokens = train.tokens_per_batch if train else None
    if task and tokens is not None and tokens < task.max_length:
        yield (
            f"train.tokens_per_batch: got {tokens}; allowed: at least task.max_length "
            f"({task.max_length})"
        )
    if task and head and task.answers not in head.answers:
        what = {"text": "texts", "score": "scores"}.get(task.answers, task.answers)
        yield (
            f"head.kind: got {head.kind!r}; allowed for {task.kind} (its answers are {what}): "
            f"{', '.join(heads_for(task.answers))}"
        )
    if isinstance(task, FileTask) and isinstance(head, LabelWordsHead | ChoiceHead):
        yield from unknown_words(head, task.labels)


def unknown_words(head: LabelWordsHead | ChoiceHead, labels: Sequence[str]) -> Iterator[str]:
    """A line for each label of head.words that the task does not have."""
    for label in head.words:
        if label not in labels:
            yield f"head.words: {refusal(label, labels, ', '.join(labels))}"


# --- reading ----------------------------------------------------------------------------


def parse_recipe(data: dict[str, Any], *, source: str = "recipe") -> Recipe:
    """Checks a mapping; raises RecipeError with every problem at once."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        lines = describe(error, data, Recipe)
        if any(item["loc"] for item in error.errors(include_url=False)):
            lines += _check_the_rest(data)  # pydantic skips _consistent where a part is wrong
        raise RecipeError(lines, source=source) from None


def _check_the_rest(data: dict[str, Any]) -> list[str]:
    parts: list[Any] = []
    for name in ("task", "prompt", "head", "train"):
        try:
            annotation = Recipe.model_fields[name].rebuild_annotation()
            parts.append(TypeAdapter(annotation).validate_python(data.get(name)))
        except ValidationError:
            parts.append(None)
    return list(_between(*parts))


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Recipe, list[str]]:
    """Reads a YAML recipe and applies `a.b=c` overrides.

    Returns the recipe and notes for the user (keys that an override of `kind` made void).
    Raises RecipeError with every problem at once, each with its field path.
    """
    path, notes, problems = Path(path), list[str](), Problems()
    changes, data, recipe = parse_overrides(overrides, problems), {}, None
    with problems.catch():
        data = read_mapping(path)
        data.setdefault("name", path.stem)
        for change in changes:
            with problems.catch():
                if apply_override(data, change):
                    notes += drop_foreign_keys(data, change.path[:-1], Recipe)
        recipe = parse_recipe(data, source=str(path))
    problems.check(source=str(path) if data else None)
    assert recipe is not None
    return recipe, notes


def read_recipe(path: Path) -> Recipe:
    """Reads a resolved recipe, as `dump_recipe` wrote it."""
    return load_recipe(path)[0]


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML; `load_recipe` reads it back to an equal one."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def schema() -> str:
    """The JSON schema of a recipe, for editors."""
    return json.dumps(Recipe.model_json_schema(), indent=2)
