"""The command line: which commands there are.

Each command imports what it needs itself, so that `--help` is quick, and checks what it can before
torch is loaded. A RecipeError is printed whole and ends with exit code 2.
"""

from importlib import import_module
from typing import Any

import typer

# Name of a command -> the module of this package and the function behind it.
COMMANDS = {
    "validate": "look.validate",
    "schema": "look.print_schema",
    "tasks": "look.tasks",
    "plan": "look.plan",
    "train": "train.train",
    "evaluate": "runs.evaluate",
    "predict": "runs.predict",
}
# Name of a group of commands -> its module and its Typer.
GROUPS = {"recipes": "look.recipes_app", "data": "look.data_app", "swarm": "swarm.app"}


def _find(place: str) -> Any:
    module, _, name = place.partition(".")
    return getattr(import_module(f"accept_llm.cli.{module}"), name)


app = typer.Typer(
    help="Prompt tuning of frozen language models with ACCEPT.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _name, _place in COMMANDS.items():
    app.command(_name)(_find(_place))
for _name, _place in GROUPS.items():
    app.add_typer(_find(_place), name=_name)


def main() -> None:
    """Entry point of the console script."""
    app()
