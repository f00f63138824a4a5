"""What every command shares: how a mistake, a note and another library's chatter are shown."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from accept_llm.ranks import is_first, is_first_here
from accept_llm.recipe_errors import RecipeError


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


def say(text: str) -> None:
    """On rank 0, at once."""
    if is_first():
        print(text, flush=True)


def quiet() -> None:
    """transformers' bars and advice are not ours to show; warnings that matter stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
