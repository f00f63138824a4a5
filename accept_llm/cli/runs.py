"""Commands that use what a run has left: evaluate and predict."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accept_llm.cli.console import plain_errors, running
from accept_llm.cli.options import Overrides, Peers, RunPath
from accept_llm.errors import Problems, RecipeError

if TYPE_CHECKING:
    from accept_llm.recipe.recipe import Recipe


def _remark(text: str) -> None:
    """Beside what a command prints for programs."""
    print(text, file=sys.stderr)


def _read_overridden(run: Path, overrides: list[str] | None) -> "Recipe":
    """The recipe of a run folder with changes, wherever the folder lies now."""
    from accept_llm.recipe.recipe import load_recipe
    from accept_llm.runs.folder import RECIPE_FILE, read_run, relocate

    recipe = read_run(run)
    if overrides:
        recipe, notes = load_recipe(run / RECIPE_FILE, overrides)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    return relocate(recipe, run)


def evaluate(
    run: RunPath,
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    peers: Peers = None,
) -> None:
    """Score a run's best prompt again."""
    with plain_errors():
        if split not in ("train", "validation", "test"):
            raise RecipeError([f"--split: got {split!r}; allowed: train, validation, test"])
        from accept_llm.adapter.card import read_card
        from accept_llm.checks import check, check_adapter
        from accept_llm.engines.check import on_swarm
        from accept_llm.runs.folder import ADAPTER

        recipe, kind = on_swarm(_read_overridden(run, overrides), peers)
        read_card(run / ADAPTER)
        checked = check(recipe, kind)
        check_adapter(recipe, checked.info, kind)
        with running():
            from accept_llm import api

            scores = api.evaluate(checked, engine_kind=kind, split=split, notify=_remark)
    print(json.dumps({"split": split, **scores}))


def predict(
    run: RunPath,
    source: Annotated[
        Path | None, typer.Option("--input", help="Text lines or JSONL; default: standard input.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSONL file; default: standard output.")] = None,
    peers: Peers = None,
) -> None:
    """Label new texts: a line of text or of JSON each in, a line of JSON each out."""
    with plain_errors():
        from accept_llm.engines.check import on_swarm
        from accept_llm.runs.folder import ADAPTER, read_run

        recipe, kind = on_swarm(read_run(run), peers)
        task, examples = _prediction_of(recipe, kind, source, out)
        with running():
            from accept_llm.api import predict_examples
            from accept_llm.data.inputs import write_lines
            from accept_llm.training.evaluate import as_json

            adapter = recipe.run_dir / ADAPTER
            found = predict_examples(
                recipe, task, examples, adapter=adapter, engine_kind=kind, notify=_remark
            )
        lines = [json.dumps(as_json(task, p), ensure_ascii=False) for p in found]
        write_lines(out, lines)


def _prediction_of(
    recipe: "Recipe", engine_kind: str, source: Path | None, out: Path | None
) -> tuple[Any, list[Any]]:
    """Task and examples, checked all at once."""
    from accept_llm.checks import check_adapter
    from accept_llm.data.inputs import check_new, read_inputs
    from accept_llm.data.sources import task_from
    from accept_llm.models.find import inspect_model

    examples, problems = list[Any](), Problems()
    task = task_from(recipe.task)
    with problems.catch():
        check_adapter(recipe, inspect_model(recipe.model), engine_kind)
    with problems.catch():
        check_new(out)
    with problems.catch():
        examples = read_inputs(source, task)
    problems.check()
    return task, examples
