"""`accept-llm train`, and what the launchers do with their engine."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import typer

from accept_llm.cli.console import notify, plain_errors, running
from accept_llm.cli.options import Force, LocalRank, Overrides, RecipePath, Resume
from accept_llm.cli.processes import ensure_ranks
from accept_llm.ranks import is_first, is_first_here


def train(
    path: RecipePath, overrides: Overrides = None, resume: Resume = False, force: Force = False
) -> None:
    """Train a recipe on this machine's CPU or GPU."""
    train_with("single", path, overrides, resume=resume, force=force)


def train_with(
    engine_kind: str,
    path: Path,
    overrides: list[str] | None,
    *,
    resume: bool = False,
    force: bool = False,
) -> None:
    """What `accept-llm train` and the launchers do; the engine is the caller's choice."""
    with plain_errors():
        from accept_llm.recipe.recipe import load_recipe

        recipe, notes = load_recipe(path, overrides or ())
        for note in notes:
            notify(f"note: {note}")
        from accept_llm.checks import check_train

        checked = check_train(recipe, engine_kind, resume=resume)
        # The launcher's own process does not know the number of ranks yet.
        if not force and is_first_here() and (engine_kind == "single" or "RANK" in os.environ):
            from accept_llm.plan.plan import check_memory

            unknown = check_memory(recipe, engine_kind, checked.splits.train)
            if unknown:
                notify(f"note: {unknown}")
        if engine_kind not in ("single", "petals"):
            ensure_ranks(engine_kind)
        if resume and not recipe.run_dir.exists():
            notify(f"note: there is no {recipe.run_dir} to resume; the run starts at step 0")
        notify(f"{recipe.name}: {checked.splits.summary}; loading the model")
        if checked.info is None and "RANK" not in os.environ:
            from accept_llm.models.find import fetch_model

            fetch_model(recipe.model)  # one that cannot be had shows before torch is loaded
        with running():
            from accept_llm.api import train as run_training

            run_training(checked, engine_kind=engine_kind, resume=resume, notify=notify)
    result = recipe.run_dir / "result.json"
    if is_first() and result.exists():
        from accept_llm.cli.console import print_result

        print_result(json.loads(result.read_text()))


def launch(engine_kind: str) -> Callable[[], None]:
    """A launcher's command: like `train`, with the launcher's engine."""

    def command(
        path: RecipePath,
        overrides: Overrides = None,
        resume: Resume = False,
        force: Force = False,
        local_rank: LocalRank = None,
    ) -> None:
        train_with(engine_kind, path, overrides, resume=resume, force=force)

    return lambda: typer.run(command)
