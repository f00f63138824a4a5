"""What every command shares: how a mistake, a note and another library's chatter are shown."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from accept_llm.errors import RecipeError, short
from accept_llm.ranks import is_first, is_first_here

if TYPE_CHECKING:
    from accept_llm.runs.result import Result


@contextmanager
def plain_errors() -> Iterator[None]:
    """A user's mistake, or what the system refuses before the work begins: one clear message, and
    exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a console's encoding lacks is escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except RecipeError as error:
        complain(str(error))
        raise typer.Exit(2) from None
    except OSError as error:  # a path that cannot be looked at: no permission, too long a name
        complain(_of_system(error))
        raise typer.Exit(2) from None


def _of_system(error: OSError) -> str:
    return f"{error.strerror or error}: {short(error.filename) if error.filename else 'the output'}"


def complain(text: str) -> None:
    """Prints a mistake, on one rank of each machine: it may be one machine's alone."""
    if is_first_here():
        print(f"error: {text}", file=sys.stderr)


def notify(text: str) -> None:
    """Prints a line for the user at once, on rank 0 alone."""
    if is_first():
        with going_on():
            print(text, flush=True)


@contextmanager
def going_on() -> Iterator[None]:
    """Goes on without a console that is gone (a closed pipe, a terminal that hung up): what a run
    is for lies in its folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def quiet() -> None:
    """transformers' bars and advice are not ours to show; warnings that matter stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def running() -> Iterator[None]:
    """Training, or a backbone, that cannot go on: a message, and exit code 1. A run that a
    signal ends: a message, and 128 and its number (SIGTERM 143, Ctrl-C 130)."""
    quiet()
    from accept_llm.backbones.base import BackboneError
    from accept_llm.training.signals import Stopped
    from accept_llm.training.trainer import TrainingError

    try:
        yield
    except Stopped as stop:
        notify(str(stop))
        raise typer.Exit(128 + stop.number) from None
    except (BackboneError, TrainingError) as error:
        complain(str(error))
        raise typer.Exit(1) from None
    except OSError as error:
        complain(_of_system(error))
        raise typer.Exit(1) from None


def print_result(result: "Result") -> None:
    """result.json for the eye."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    title = escape(f"{result.name}: {result.model} on {result.task}")
    table = Table(title=title)
    table.add_column("split")
    for name in result.test:
        table.add_column(name, justify="right")
    for split, scores in (("validation", result.validation), ("test", result.test)):
        table.add_row(split, *(f"{value:.4f}" for value in scores.values()))
    Console().print(table)
    print(
        f"{result.trainable['total']:,} trained parameters, {result.steps} steps in "
        f"{result.seconds['train_and_validate']:.0f} s (best: step {result.best_step})\n"
        f"run folder: {result.folder}\ncurves: {result.folder}/curves.png"
    )
