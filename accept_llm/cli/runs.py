"""Commands that use what a run has left: evaluate and predict."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from accept_llm.cli.console import complain, plain_errors, running
from accept_llm.cli.options import Overrides, Peers, RunPath
from accept_llm.errors import Problems, RecipeError


def _remark(text: str) -> None:
    """Prints a note on stderr, since programs read what these commands print."""
    print(text, file=sys.stderr)


def _note(text: str) -> None:
    _remark(f"note: {text}")


def evaluate(
    run: RunPath,
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    peers: Peers = None,
) -> None:
    """Score a run's best step again."""
    with plain_errors():
        from accept_llm import api
        from accept_llm.data.splits import SPLITS

        if split not in SPLITS:
            raise RecipeError([f"--split: got {split!r}; allowed: {', '.join(SPLITS)}"])
        prepared, engine = api.prepare_run(
            run, overrides or (), split=split, peers=peers, notify=_remark
        )
        with running():
            scores = api.score_split(prepared, engine, split=split, notify=_remark)
        found = json.dumps({"split": split, **scores})
        try:
            print(found, flush=True)
        except OSError as error:  # what took long is not lost
            complain(f"standard output: {error.strerror or error}; the scores: {found}")
            raise typer.Exit(1) from None


def predict(
    run: RunPath,
    overrides: Overrides = None,
    source: Annotated[
        Path | None,
        typer.Option("--input", help="Rows as in training, or .txt; default: standard input."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSONL file; default: standard output.")] = None,
    peers: Peers = None,
) -> None:
    """Label new texts: a line of text or of JSON each in, a line of JSON each out."""
    with plain_errors():
        from accept_llm import api
        from accept_llm.data.inputs import check_new, open_output, read_inputs
        from accept_llm.storage import home_path

        source, out = source and home_path(source), out and home_path(out)
        prepared, problems = None, Problems()
        if source is None and sys.stdin is None:
            problems.lines.append(
                "--input: standard input is closed; allowed: an open one, or a file"
            )
        if out is None and sys.stdout is None:
            problems.lines.append(
                "--out: standard output is closed; allowed: an open one, or a file"
            )
        problems.check()
        with problems.catch():
            prepared, engine = api.prepare_run(
                run, overrides or (), split=None, peers=peers, notify=_remark
            )
        with problems.catch():
            check_new(out)
        with problems.catch():
            if prepared:
                examples = read_inputs(source, prepared.task, notify=_note)
        problems.check()
        assert prepared is not None
        with open_output(out) as write, running():
            for found in api.answer(prepared, engine, examples=examples, notify=_remark):
                write(found)
