"""`accept-llm train`, and what the launchers do with their engine."""

from collections.abc import Callable
from pathlib import Path

import typer

from accept_llm.cli.console import notify, plain_errors, print_result, running
from accept_llm.cli.options import ChangedData, Force, LocalRank, Overrides, RecipePath, Resume
from accept_llm.cli.processes import ensure_ranks
from accept_llm.engines.facts import ALONE, facts_of
from accept_llm.ranks import is_first


def train(
    path: RecipePath,
    overrides: Overrides = None,
    resume: Resume = False,
    changed_data: ChangedData = False,
    force: Force = False,
) -> None:
    """Train a recipe on this machine's CPU or GPU."""
    how = {"resume": resume, "changed_data": changed_data, "force": force}
    train_with(ALONE, path, overrides=overrides, **how)


def train_with(
    engine_kind: str,
    path: Path,
    *,
    overrides: list[str] | None,
    resume: bool = False,
    changed_data: bool = False,
    force: bool = False,
) -> None:
    """What `accept-llm train` and the launchers do; the engine is the caller's choice."""
    with plain_errors():
        from accept_llm import api
        from accept_llm.recipe.recipe import load_recipe

        recipe, notes = load_recipe(path, overrides or ())
        for note in notes:
            notify(f"note: {note}")
        prepared = api.prepare(recipe, engine_kind, resume=resume, force=force, notify=notify)
        if facts_of(engine_kind).has_ranks:
            ensure_ranks(engine_kind)
        with running():
            how = {"resume": resume, "changed_data": changed_data}
            result = api.run(prepared, engine_kind, **how, notify=notify, bar=True)
    if is_first():
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
        how = {"resume": resume, "changed_data": changed_data, "force": force}
        train_with(engine_kind, path, overrides=overrides, **how)

    return lambda: typer.run(command)
