"""`accept-llm train`, and what the launchers do with their engine."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from accept_llm.cli.console import going_on, notify, plain_errors, print_result, running
from accept_llm.cli.options import (
    ChangedData,
    EngineKind,
    Force,
    LocalRank,
    NProc,
    Overrides,
    RecipePath,
    Resume,
)
from accept_llm.cli.processes import ensure_ranks, join_launcher, run_ranks, started_here
from accept_llm.engines.facts import ALONE, RANKED, facts_of
from accept_llm.errors import RecipeError
from accept_llm.ranks import is_first

if TYPE_CHECKING:
    from accept_llm.api import Resume as GoingOn


def train(
    path: RecipePath,
    overrides: Overrides = None,
    resume: Resume = False,
    changed_data: ChangedData = False,
    force: Force = False,
    nproc: NProc = None,
    engine: EngineKind = None,
) -> None:
    """Train a recipe on this machine's CPU or GPU, or on several by --nproc."""
    kind = engine or (RANKED[0] if nproc else ALONE)
    with plain_errors():
        if (engine and not nproc) or (nproc and kind not in RANKED):
            got = f"--engine: got {engine!r}, --nproc: got {nproc}"
            raise RecipeError([f"{got}; allowed: --nproc N, with one of {', '.join(RANKED)}"])
    going_on: GoingOn = "changed-data" if changed_data else resume
    train_with(kind, path, overrides=overrides, resume=going_on, force=force, nproc=nproc)


def train_with(
    engine_kind: str,
    path: Path,
    *,
    overrides: list[str] | None,
    resume: "GoingOn" = False,
    force: bool = False,
    nproc: int | None = None,
) -> None:
    """What `accept-llm train` and the launchers do; the engine is the caller's choice, and so is
    `nproc`, the ranks to start here. Without it a launcher has started them."""
    with plain_errors():
        if facts_of(engine_kind).has_ranks and not nproc:
            join_launcher()
        from accept_llm import api
        from accept_llm.recipe.recipe import load_recipe

        recipe, notes = load_recipe(path, overrides or ())
        for note in notes:
            notify(f"note: {note}")
        prepared = api.prepare(recipe, engine_kind, resume=bool(resume), force=force, notify=notify)
        if nproc and not started_here():
            raise typer.Exit(run_ranks(nproc))
        if facts_of(engine_kind).has_ranks:
            ensure_ranks(engine_kind)
        with running():
            result = api.run(prepared, engine_kind, resume=resume, notify=notify, bar=True)
        if is_first():
            with going_on():
                print_result(result)


def launch(engine_kind: str) -> Callable[[], None]:
    """A launcher's command: like `train`, with the launcher's engine."""

    def command(
        path: RecipePath,
        overrides: Overrides = None,
        resume: Resume = False,
        changed_data: ChangedData = False,
        force: Force = False,
        local_rank: LocalRank = None,
    ) -> None:
        going_on: GoingOn = "changed-data" if changed_data else resume
        train_with(engine_kind, path, overrides=overrides, resume=going_on, force=force)

    return lambda: typer.run(command)
