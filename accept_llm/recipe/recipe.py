"""The recipe: one checked, frozen tree that says everything about a run.

Reads YAML and `a.b=c` overrides, reports every mistake at once, and prints a JSON schema.
It knows nothing of torch, models or data, so that checking a recipe is instant. Each section has a
file of its own beside this one.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError, model_validator

from accept_llm.errors import Problems, RecipeError, did_you_mean
from accept_llm.recipe.engine import EngineSpec
from accept_llm.recipe.head import HeadSpec, LinearHead, heads_for
from accept_llm.recipe.messages import describe, drop_foreign_keys
from accept_llm.recipe.method import METHOD_SPECS, BaseMethod, MethodSpec
from accept_llm.recipe.model import ModelSpec
from accept_llm.recipe.task import FileTask, TaskSpec
from accept_llm.recipe.text import (
    apply_override,
    half_characters,
    parse_overrides,
    read_mapping,
)
from accept_llm.recipe.train import HEAD, HEAD_RATE, Train, fill_groups
from accept_llm.recipe.types import Name, PathText, Spec
from accept_llm.recipe.upgrade import KEPT_SCALE, keep_scale, upgrade
from accept_llm.storage import home_path


class Recipe(Spec):
    """Everything about a run."""

    name: Name
    """The run folder is <output_dir>/<name>; without it, the recipe's file name."""
    output_dir: PathText = "runs"
    model: ModelSpec
    task: TaskSpec
    method: MethodSpec
    head: HeadSpec = LinearHead(kind="linear")
    engine: EngineSpec | None = None
    """Only to insist on one: the launcher decides, and refuses a recipe that names another."""
    train: Train

    @property
    def run_dir(self) -> Path:
        return home_path(self.output_dir) / self.name

    @model_validator(mode="before")
    @classmethod
    def _fill_groups(cls, data: Any) -> Any:
        """Gives train.lr and train.weight_decay a value for every group of the method."""
        groups = _groups_of(data.get("method")) if isinstance(data, dict) else None
        train = data.get("train") if isinstance(data, dict) else None
        if groups is None or not isinstance(train, dict):
            return data
        lr = fill_groups(train.get("lr"), groups)
        decay = fill_groups(train.get("weight_decay"), dict.fromkeys(groups, 0.0))
        return {**data, "train": {**train, "lr": lr, "weight_decay": decay}}

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        problems = list(_between(self.task, self.method, head=self.head, train=self.train))
        if problems:
            raise ValueError("\n".join(problems))
        return self


def _groups_of(method: Any) -> dict[str, float] | None:
    """The groups of trained parameters of a recipe's `method` section, and of a head, with their
    default learning rates; None where the section names no method."""
    section = method.model_dump() if isinstance(method, BaseMethod) else method
    spec = METHOD_SPECS.get(str(section.get("kind"))) if isinstance(section, Mapping) else None
    return {**spec.default_rates(section), HEAD: HEAD_RATE} if spec else None


def _between(
    task: TaskSpec | None, method: MethodSpec | None, *, head: HeadSpec | None, train: Train | None
) -> Iterator[str]:
    """What must agree between sections; None stands for one that is wrong in itself."""
    if task and method and task.max_length < method.tokens:
        yield (
            f"task.max_length: got {task.max_length}; allowed: at least the prompt's length "
            f"({method.tokens})"
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
    if isinstance(task, FileTask) and head:
        yield from head.problems(task.labels)
    if train and method:
        yield from _unknown_groups(train, method)


def _unknown_groups(train: Train, method: MethodSpec) -> Iterator[str]:
    known = _groups_of(method) or {}
    for field in ("lr", "weight_decay"):
        for name in getattr(train, field):
            if name not in known:
                hint = did_you_mean(name, list(known)) or ";"
                allowed = f"{', '.join(known)} (the groups of method.kind {method.kind!r})"
                yield f"train.{field}.{name}: unknown group{hint} allowed: {allowed}"


# --- reading ----------------------------------------------------------------------------

_SCALE = ("method", "scale")


def parse_recipe(data: dict[str, Any], *, source: str = "recipe") -> Recipe:
    """Checks a mapping; raises RecipeError with every problem at once."""
    halves = list(half_characters(data))
    if halves:
        raise RecipeError(halves, source=source)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        lines = describe(error, data, root=Recipe)
        if any(item["loc"] for item in error.errors(include_url=False)):
            lines += _check_the_rest(data)  # pydantic skips _consistent where a part is wrong
        raise RecipeError(lines, source=source) from None


def _check_the_rest(data: dict[str, Any]) -> list[str]:
    parts: dict[str, Any] = {}
    for name in ("task", "method", "head", "train"):
        try:
            annotation = Recipe.model_fields[name].rebuild_annotation()
            parts[name] = TypeAdapter(annotation).validate_python(data.get(name))
        except ValidationError:
            parts[name] = None
    return list(_between(**parts))


def load_recipe(
    path: str | Path, overrides: Sequence[str] = (), *, earlier: bool = False
) -> tuple[Recipe, list[str]]:
    """Reads a YAML recipe and applies `a.b=c` overrides. With `earlier`, the recipe may be one that
    an earlier accept-llm resolved, with the names of its time.

    Returns the recipe and notes for the user (keys that an override of `kind` made void, keys that
    have another name now). Raises RecipeError with every problem at once, each with its field path.
    """
    path, notes, problems = home_path(path), list[str](), Problems()
    data: dict[str, Any] = {}
    with problems.catch():
        data = read_mapping(path)
        data.setdefault("name", path.stem)
        if earlier:
            data, notes = _translate(data, path)
    recipe, more = _with_overrides(data, overrides, problems=problems, source=str(path))
    return recipe, [*notes, *more]


def override_recipe(recipe: Recipe, overrides: Sequence[str]) -> tuple[Recipe, list[str]]:
    """A recipe with `a.b=c` overrides; results and errors as `load_recipe`'s."""
    data = recipe.model_dump(mode="json")
    return _with_overrides(data, overrides, problems=Problems(), source=recipe.name)


def _with_overrides(
    data: dict[str, Any], overrides: Sequence[str], *, problems: Problems, source: str
) -> tuple[Recipe, list[str]]:
    """Makes the changes in place and checks the whole; RecipeError with all problems, those that
    there are already too."""
    notes: list[str] = []
    recipe = None
    changes = parse_overrides(overrides, problems)
    # What decides the default rates comes before the rates.
    for change in sorted(changes, key=lambda c: not (c.switches_kind or c.path == _SCALE)):
        with problems.catch():
            before = _groups_of(data.get("method")) or {}
            if apply_override(data, change) and data:
                notes += drop_foreign_keys(data, change.path[:-1], root=Recipe)
                notes += _drop_groups(data, before)
            if change.switches_kind or change.path == _SCALE:
                notes += _renew_rates(data, before)
    if not problems.lines or data:
        with problems.catch():
            recipe = parse_recipe(data, source=source)
    problems.check(source=source if data else None)
    assert recipe is not None
    return recipe, notes


def _translate(data: dict[str, Any], path: Path) -> tuple[dict[str, Any], list[str]]:
    """A resolved recipe of any time in the names of today. Before methods had groups of their own,
    each recipe had the rates of ACCEPT's; before prompts had a scale, theirs was none."""
    data, renamed = upgrade(data)
    method = data.get("method")
    spec = METHOD_SPECS.get(str(method.get("kind"))) if isinstance(method, dict) else None
    if spec and "scale" in spec.model_fields and keep_scale(method):
        renamed.append(KEPT_SCALE)
    notes = [f"{path} is of an earlier accept-llm: {', '.join(renamed)}"] if renamed else []
    # Also where `recipes upgrade` has renamed its keys already.
    return data, notes + _drop_groups(data, METHOD_SPECS["accept"].rates)


def _drop_groups(data: dict[str, Any], before: Mapping[str, float]) -> list[str]:
    """Removes from train.lr and train.weight_decay the groups of the method before a change that
    the new method has not; a line for each."""
    now, train = _groups_of(data.get("method")), data.get("train")
    lines: list[str] = []
    if now is None or not isinstance(train, dict):
        return lines
    for field in ("lr", "weight_decay"):
        given = train.get(field)
        if not isinstance(given, dict):
            continue
        for name in [n for n in before if n in given and n not in now]:
            del given[name]
            kind = data["method"]["kind"]
            lines.append(f"train.{field}.{name} is left out: method.kind={kind} has no such group")
    return lines


def _renew_rates(data: dict[str, Any], before: Mapping[str, float]) -> list[str]:
    """Rates that are the defaults of the method before a change become those of the new method; a
    line for each."""
    now, train = _groups_of(data.get("method")) or {}, data.get("train")
    given = train.get("lr") if isinstance(train, dict) else None
    lines: list[str] = []
    if isinstance(given, dict):
        for name, rate in now.items():
            if name in given and given[name] == before.get(name) != rate:
                given[name] = rate
                lines.append(f"train.lr.{name} is {rate} now, the default of the changed method")
    return lines


def read_recipe(path: Path) -> Recipe:
    """Reads a resolved recipe, as `dump_recipe` wrote it."""
    return load_recipe(path)[0]


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML; `load_recipe` reads it back to an equal one."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def schema() -> str:
    """The JSON schema of a recipe, for editors."""
    return json.dumps(Recipe.model_json_schema(), indent=2)
