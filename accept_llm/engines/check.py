"""Whether an engine can do what a recipe asks, on any machine and on this one."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Sequence

from accept_llm.engines.facts import _EXTRAS, COMMANDS, LOCAL, WEIGHTS
from accept_llm.errors import RecipeError
from accept_llm.models.tokenizer import is_old
from accept_llm.recipe.engine import PetalsEngine, check_addresses
from accept_llm.recipe.recipe import Recipe


def decide_engine(recipe: Recipe, launched: str) -> str:
    """The launcher decides; a recipe that insists on another engine is refused."""
    wanted = recipe.engine.kind if recipe.engine else launched
    if wanted != launched:
        message = f"engine.kind: got {wanted!r}, but this launcher runs {launched!r}"
        raise RecipeError([f"{message}; use: {COMMANDS[wanted]}"])
    check_weights(recipe, launched)
    check_here(recipe, launched)
    return launched


def check_here(recipe: Recipe, engine_kind: str) -> None:
    """Whether this environment has what the engine needs, and the recipe what a swarm needs."""
    if engine_kind == "zero3":
        _need("deepspeed", "engine.kind: got 'zero3'")
    if engine_kind != "petals":
        if is_old():
            message = f"engine.kind: got {engine_kind!r}, which needs transformers 5"
            raise RecipeError([f"{message}; this environment is the one of Petals: use the other"])
        return
    if importlib.util.find_spec("petals") is None:
        message = "engine.kind: got 'petals', which this environment does not have"
        raise RecipeError([f"{message}; `make petals` makes .venv-petals: {COMMANDS['petals']}"])
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
        message = f"model.compile: got true, but there is no {wanted}"
        raise RecipeError([f"{message}; allowed: false, or with a C++ compiler (CXX names it)"])


def check_format(recipe: Recipe, engine_kind: str) -> None:
    """Whether the engine can hold the weights that the recipe asks for, on any machine."""
    got, allowed = recipe.model.weights, WEIGHTS[engine_kind]
    if got not in allowed:
        message = f"model.weights: got {got!r}; allowed under {engine_kind}: {', '.join(allowed)}"
        raise RecipeError([message])


def check_weights(recipe: Recipe, engine_kind: str) -> None:
    """Whether it can hold and compute them on this machine."""
    check_format(recipe, engine_kind)
    if recipe.model.weights.startswith("bnb") and engine_kind in LOCAL:
        _need("bitsandbytes", f"model.weights: got {recipe.model.weights!r}")
    if recipe.model.compile:
        _check_compiler(engine_kind)


def _need(package: str, message: str) -> None:
    if importlib.util.find_spec(package) is None:
        extra = f"accept-llm[{_EXTRAS[package]}]"
        raise RecipeError([f"{message}, which needs {package}; pip install '{extra}'"])
