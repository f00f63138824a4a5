"""What every command shares: how a mistake, a note and another library's chatter are shown."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console

from accept_llm.errors import RecipeError
from accept_llm.ranks import is_first, is_first_here


def print_result(result: dict[str, Any]) -> None:
    """result.json for the eye."""
    from rich.table import Table

    table = Table(title=f"{result['name']}: {result['model']} on {result['task']}")
    table.add_column("split")
    for name in result["test"]:
        table.add_column(name, justify="right")
    for split in ("validation", "test"):
        table.add_row(split, *(f"{value:.4f}" for value in result[split].values()))
    console = Console()
    console.print(table)
    seconds = result["seconds"]
    print(
        f"{result['trainable']['total']:,} trained numbers, {result['steps']} steps in "
        f"{seconds['train_and_validate']:.0f} s (best: step {result['best_step']})\n"
        f"run folder: {result['folder']}\ncurves: {result['folder']}/curves.png"
    )


@contextmanager
def plain_errors() -> Iterator[None]:
    """A user's mistake: one clear message, and exit code 2."""
    try:
        yield
    except RecipeError as error:
        complain(str(error))
        raise typer.Exit(2) from None


def complain(text: str) -> None:
    """On one rank of each machine: a mistake may be one machine's alone."""
    if is_first_here():
        print(f"error: {text}", file=sys.stderr)


def notify(text: str) -> None:
    """On rank 0, at once."""
    if is_first():
        print(text, flush=True)


def quiet() -> None:
    """transformers' bars and advice are not ours to show; warnings that matter stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def running() -> Iterator[None]:
    """Training, or a backbone, that cannot go on: a message, and exit code 1."""
    quiet()
    from accept_llm.backbones.base import BackboneError
    from accept_llm.training.trainer import TrainingError

    try:
        yield
    except (BackboneError, TrainingError) as error:
        complain(str(error))
        raise typer.Exit(1) from None
