"""Everything that can be checked before a weight is loaded: data, model folder, sizes, the run
folder, an adapter. No torch, so that a mistake shows at once.
"""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accept_llm.adapter_card import check_fits, read_card
from accept_llm.budget import PromptShape, solve
from accept_llm.data import Splits, load_splits
from accept_llm.model_files import read_shapes
from accept_llm.models import ModelInfo, inspect_model
from accept_llm.recipe import PetalsEngine, Recipe, read_recipe, unknown_words
from accept_llm.recipe_engine import check_addresses
from accept_llm.recipe_errors import Problems, RecipeError
from accept_llm.swarm.folder import check_family
from accept_llm.tasks import Task, task_from
from accept_llm.tokenizer import is_old

RECIPE_FILE = "recipe.yaml"
ADAPTER = "prompt"
COMMANDS = {
    "single": "accept-llm train RECIPE, or python launchers/single_gpu.py RECIPE",
    "ddp": "accelerate launch --num_processes N launchers/ddp.py RECIPE",
    "fsdp2": "accelerate launch --num_processes N launchers/fsdp.py RECIPE",
    "zero3": "accelerate launch --num_processes N launchers/zero3.py RECIPE",
    "petals": ".venv-petals/bin/python launchers/petals_client.py RECIPE engine.peers=ADDRESS",
}
# model.weights that an engine can hold: bitsandbytes' cannot be cut up, nor DeepSpeed cut int8.
WEIGHTS = {
    **dict.fromkeys(("single", "ddp"), ("bf16", "int8", "bnb-int8", "bnb-nf4")),
    "fsdp2": ("bf16", "int8"),
    "zero3": ("bf16",),
    "petals": ("bf16", "bnb-int8", "bnb-nf4"),  # what its servers hold
}
LOCAL = ("single", "ddp", "fsdp2", "zero3")  # the weights are in these processes

_EXTRAS = {"bitsandbytes": "quant", "deepspeed": "deepspeed"}


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
    written = recipe.head.max_new_tokens if recipe.head.kind == "generate" else 0
    longest = recipe.prompt_length + recipe.task.max_length + written
    if info.max_positions is not None and longest > info.max_positions:
        parts = f"{recipe.prompt_length} prompt tokens"
        parts += f" and {written} of an answer" if written else ""
        raise RecipeError(
            [
                f"task.max_length: got {recipe.task.max_length} with {parts}; allowed: at most "
                f"{info.max_positions} positions in all ({info.folder.name})"
            ]
        )


def decide_engine(recipe: Recipe, launched: str) -> str:
    """The launcher decides; a recipe that insists on another engine is refused."""
    wanted = recipe.engine.kind if recipe.engine else launched
    if wanted != launched:
        said = f"engine.kind: got {wanted!r}, but this launcher runs {launched!r}"
        raise RecipeError([f"{said}; use: {COMMANDS[wanted]}"])
    check_weights(recipe, launched)
    check_here(recipe, launched)
    return launched


def check_here(recipe: Recipe, engine_kind: str) -> None:
    """Whether this environment has what the engine needs, and the recipe what a swarm needs."""
    if engine_kind == "zero3":
        _need("deepspeed", "engine.kind: got 'zero3'")
    if engine_kind != "petals":
        if is_old():
            said = f"engine.kind: got {engine_kind!r}, which needs transformers 5"
            raise RecipeError([f"{said}; this environment is the one of Petals: use the other"])
        return
    if importlib.util.find_spec("petals") is None:
        said = "engine.kind: got 'petals', which this environment does not have"
        raise RecipeError([f"{said}; `make petals` makes .venv-petals: {COMMANDS['petals']}"])
    problems = list(_swarm_problems(recipe))
    if problems:
        raise RecipeError(problems)


def on_swarm(recipe: Recipe, peers: Sequence[str] | None) -> tuple[Recipe, str]:
    """The recipe with these servers, and the engine that evaluates it; without any, this machine
    does, whatever trained it."""
    if not peers:
        return recipe, "single"
    check_addresses(peers, "--peers")
    known = recipe.engine if isinstance(recipe.engine, PetalsEngine) else None
    engine = (known or PetalsEngine(kind="petals")).model_copy(update={"peers": list(peers)})
    return recipe.model_copy(update={"engine": engine}), "petals"


def _swarm_problems(recipe: Recipe) -> Iterator[str]:
    """What of a recipe the servers of a swarm cannot do."""
    if not isinstance(recipe.engine, PetalsEngine):
        yield f"engine: got none of kind petals; use: {COMMANDS['petals']}"
    elif not recipe.engine.peers:
        yield "engine.peers: got none; allowed: an address that launchers/petals_server.py prints"
    if recipe.model.layout not in (None, "padded"):
        yield f"model.layout: got {recipe.model.layout!r}; allowed under petals: padded"
    for name in ("checkpointing", "compile"):
        if getattr(recipe.model, name):
            yield f"model.{name}: got true; allowed under petals: false (its servers compute)"
    if recipe.head.kind == "generate" and recipe.head.num_beams > 1:
        yield f"head.num_beams: got {recipe.head.num_beams}; allowed under petals: 1"


def _check_compiler(engine_kind: str) -> None:
    """model.compile needs a compiler, and blocks without DeepSpeed's hooks inside."""
    if engine_kind == "zero3":
        raise RecipeError(["model.compile: got true; allowed under single, ddp and fsdp2"])
    wanted = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(wanted) is None:  # the one that torch would call
        said = f"model.compile: got true, but there is no {wanted}"
        raise RecipeError([f"{said}; allowed: false, or with a C++ compiler (CXX names it)"])


def check_format(recipe: Recipe, engine_kind: str) -> None:
    """Whether the engine can hold the weights that the recipe asks for, on any machine."""
    got, allowed = recipe.model.weights, WEIGHTS[engine_kind]
    if got not in allowed:
        said = f"model.weights: got {got!r}; allowed under {engine_kind}: {', '.join(allowed)}"
        raise RecipeError([said])


def check_weights(recipe: Recipe, engine_kind: str) -> None:
    """Whether it can hold and compute them on this machine."""
    check_format(recipe, engine_kind)
    if recipe.model.weights.startswith("bnb") and engine_kind in LOCAL:
        _need("bitsandbytes", f"model.weights: got {recipe.model.weights!r}")
    if recipe.model.compile:
        _check_compiler(engine_kind)


def _need(package: str, said: str) -> None:
    if importlib.util.find_spec(package) is None:
        extra = f"accept-llm[{_EXTRAS[package]}]"
        raise RecipeError([f"{said}, which needs {package}; pip install '{extra}'"])


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
    return moved(read_recipe(folder / RECIPE_FILE), folder)


def moved(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe of a run whose folder may have been renamed, by any name a folder may have."""
    here = folder.resolve()
    return recipe.model_copy(update={"name": here.name, "output_dir": str(here.parent)})


def _differences(before: Any, now: Any, where: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        parts = [_differences(before.get(k), now.get(k), f"{where}.{k}".strip(".")) for k in keys]
        return [line for part in parts for line in part]
    return [] if before == now else [f"{where}: was {before!r}, is {now!r}"]


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
