"""Whether an engine can do what a recipe asks, on any machine and on this one."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Sequence

from accept_llm.engines.facts import ALONE, ENGINES, EXTRAS, SWARM, facts_of, name_quantizations
from accept_llm.errors import Problems, RecipeError
from accept_llm.models.tokenizer import is_old
from accept_llm.recipe.engine import PetalsEngine, check_addresses
from accept_llm.recipe.method import METHOD_SPECS
from accept_llm.recipe.recipe import Recipe


def decide_engine(recipe: Recipe, launched: str) -> str:
    """The launcher decides; a recipe that insists on another engine is refused."""
    wanted = recipe.engine.kind if recipe.engine else launched
    if wanted != launched:
        message = f"engine.kind: got {wanted!r}, but this launcher runs {launched!r}"
        raise RecipeError([f"{message}; use: {facts_of(wanted).command}"])
    check_engine(recipe, launched)
    return launched


def check_engine(recipe: Recipe, kind: str) -> None:
    """Whether the engine can do what the recipe asks, and can run in this environment; RecipeError
    with every problem."""
    problems = Problems()
    for check in (check_format, _check_method, _check_packages, _check_compiler, _check_swarm):
        with problems.catch():
            check(recipe, kind)
    problems.check()


def check_format(recipe: Recipe, kind: str) -> None:
    """Whether the engine can hold the weights as the recipe asks for them, on any machine."""
    got = recipe.model.quantization
    if got not in facts_of(kind).quantizations:
        allowed = f"allowed under {kind}: {name_quantizations(kind)}"
        raise RecipeError([f"model.quantization: got {got or 'null'!r}; {allowed}"])


def _check_method(recipe: Recipe, kind: str) -> None:
    """A method inside the model needs its layers in this process."""
    if recipe.method.is_inside and not facts_of(kind).is_local:
        outside = ", ".join(name for name, spec in METHOD_SPECS.items() if not spec.is_inside)
        got = f"method.kind: got {recipe.method.kind!r}, which is inside the model's layers"
        raise RecipeError([f"{got}; allowed under {kind}: {outside} (its servers hold the layers)"])


def _check_packages(recipe: Recipe, kind: str) -> None:
    """Whether this environment has what the engine and the weights' format need."""
    facts = facts_of(kind)
    if facts.is_local and is_old():
        message = f"engine.kind: got {kind!r}, which needs transformers 5"
        raise RecipeError([f"{message}; this environment is the one of Petals: use the other"])
    if facts.package is not None:
        _need(facts.package, f"engine.kind: got {kind!r}", command=facts.command)
    if facts.is_local and recipe.model.quantization not in (None, "int8"):
        _need("bitsandbytes", f"model.quantization: got {recipe.model.quantization!r}")


def _need(package: str, message: str, *, command: str = "") -> None:
    if importlib.util.find_spec(package) is None:
        how = f"pip install 'accept-llm[{EXTRAS[package]}]'" if package in EXTRAS else ""
        how = how or f"`make {package}` makes .venv-{package}: {command}"
        raise RecipeError([f"{message}, which needs {package}; {how}"])


def _check_compiler(recipe: Recipe, kind: str) -> None:
    """model.compile needs a C++ compiler, and an engine that can have it."""
    if not recipe.model.compile or not facts_of(kind).is_local:
        return
    if not facts_of(kind).compiles:
        able = [name for name, facts in ENGINES.items() if facts.is_local and facts.compiles]
        raise RecipeError([f"model.compile: got true; allowed under {', '.join(able)}"])
    wanted = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(wanted) is None:  # the one that torch would call
        message = f"model.compile: got true, but there is no {wanted}"
        raise RecipeError([f"{message}; allowed: false, or with a C++ compiler (CXX names it)"])


def _check_swarm(recipe: Recipe, kind: str) -> None:
    problems = list(_swarm_problems(recipe)) if not facts_of(kind).is_local else []
    if problems:
        raise RecipeError(problems)


def _swarm_problems(recipe: Recipe) -> Iterator[str]:
    """What of a recipe the servers of a swarm cannot do."""
    if not isinstance(recipe.engine, PetalsEngine):
        yield f"engine: got none of kind petals; use: {facts_of(SWARM).command}"
    elif not recipe.engine.peers:
        yield "engine.peers: got none; allowed: an address that launchers/petals_server.py prints"
    if recipe.model.layout not in (None, "padded"):
        yield f"model.layout: got {recipe.model.layout!r}; allowed under petals: padded"
    for name in ("checkpointing", "compile"):
        if getattr(recipe.model, name):
            yield f"model.{name}: got true; allowed under petals: false (its servers compute)"
    if recipe.head.beams > 1:
        yield f"head.num_beams: got {recipe.head.beams}; allowed under petals: 1"


def on_swarm(recipe: Recipe, peers: Sequence[str] | None) -> tuple[Recipe, str]:
    """The recipe with these servers, and the engine that evaluates it; without any, this machine
    does, whatever trained it."""
    if not peers:
        return recipe, ALONE
    check_addresses(peers, "--peers")
    known = recipe.engine if isinstance(recipe.engine, PetalsEngine) else None
    engine = (known or PetalsEngine(kind="petals")).model_copy(update={"peers": list(peers)})
    return recipe.model_copy(update={"engine": engine}), SWARM
