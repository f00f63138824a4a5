"""Commands that look at recipes, tasks and models, and train nothing."""

import json
from pathlib import Path
from typing import Annotated

import typer

from accept_llm.cli.console import complain, plain_errors, quiet
from accept_llm.cli.options import Overrides, RecipePath
from accept_llm.engines.facts import LOCAL
from accept_llm.errors import Problems, RecipeError

recipes_app = typer.Typer(help="List the recipes that ship, or copy one to edit.")
data_app = typer.Typer(help="Get data sets.", no_args_is_help=True)


def validate(paths: Annotated[list[Path], typer.Argument(help="Recipes.")]) -> None:
    """Check recipes; loads no model and no data."""
    from accept_llm.recipe.recipe import load_recipe

    failed = False
    with plain_errors():
        for path in paths:
            try:
                load_recipe(path)
                print(f"{path}: ok")
            except RecipeError as error:
                failed = True
                complain(str(error))
    if failed:
        raise typer.Exit(2)


def print_schema() -> None:
    """Print the JSON schema of a recipe."""
    from accept_llm.recipe.recipe import schema

    print(schema())


@recipes_app.callback(invoke_without_command=True)
def list_recipes(context: typer.Context) -> None:
    """List the recipes that ship."""
    if context.invoked_subcommand is None:
        from accept_llm.recipe.shipped import describe_recipe, shipped_recipes, shipped_sweeps

        sweeps = shipped_sweeps()
        for name, path in (shipped_recipes() | sweeps).items():
            if name == next(iter(sweeps), None):
                print("\nSweeps, each of many runs:")
            print(f"{name}\n    " + describe_recipe(path).replace("\n", "\n    "))


@recipes_app.command("copy")
def copy(
    name: Annotated[str, typer.Argument(help="Its name in the list.")],
    to: Annotated[Path, typer.Argument(help="A file or a folder.")] = Path(),
) -> None:
    """Put a shipped recipe in front of you, to edit."""
    with plain_errors():
        from accept_llm.recipe.shipped import copy_recipe

        print(copy_recipe(name, to))


@recipes_app.command("upgrade")
def upgrade(paths: Annotated[list[Path], typer.Argument(help="Recipes.")]) -> None:
    """Rewrite keys that have another name now, in place; comments stay."""
    with plain_errors():
        from accept_llm.recipe.text import read_mapping
        from accept_llm.recipe.upgrade import upgrade_text
        from accept_llm.storage import home_path, write_text

        problems = Problems()
        for path in paths:
            with problems.catch(where=f"{path}: "):
                path = home_path(path)
                read_mapping(path)
                # As bytes, so that the ends of lines stay; the target of a link, not the link.
                text, lines = upgrade_text(path.read_bytes().decode("utf-8"))
                if lines:
                    write_text(path.resolve(), text)
                print(f"{path}: {'; '.join(lines) or 'nothing to rewrite'}")
        problems.check()


@data_app.command("fetch")
def fetch(
    task: Annotated[str, typer.Argument(help="A task, such as sst2.")],
    out: Annotated[Path, typer.Option(help="The folder for ACCEPT_DATA_DIR.")],
) -> None:
    """Download a task's rows, to use where there is no network."""
    with plain_errors():
        from accept_llm.data.sources import fetch_task

        print(fetch_task(task, out))


def tasks(
    name: Annotated[
        str | None, typer.Argument(help="One of them, such as sst2.", show_default=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder or Hub id: whose tokens to count.")
    ] = None,
) -> None:
    """List the tasks, or show a task's first examples as a model reads them."""
    with plain_errors():
        from accept_llm.cli import tasks as show

        if name is None and model is not None:
            raise RecipeError([f"--model: got {model!r} without a task; allowed: tasks NAME"])
        if name is None:
            show.print_table()
        else:
            quiet()
            print(show.show_task(name, model))


def plan(
    path: RecipePath,
    overrides: Overrides = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, max=10**6, help="Ranks: GPUs, or processes on a CPU.")
    ] = None,
    gpu_memory: Annotated[
        float | None,
        typer.Option(min=0.1, max=1e6, help="GB of each GPU; default: what this machine has."),
    ] = None,
    engine: Annotated[str | None, typer.Option(help=", ".join(LOCAL))] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=1e-6, max=1e9, help="TFLOP/s of a device, for the time of a step."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, in bytes.")] = False,
) -> None:
    """Say whether a recipe fits, under every engine and weight format; loads no weight."""
    with plain_errors():
        from accept_llm.plan.plan import make_plan
        from accept_llm.plan.show import as_dict, print_plan
        from accept_llm.recipe.recipe import load_recipe

        if engine is not None and engine not in LOCAL:
            raise RecipeError([f"--engine: got {engine!r}; allowed: {', '.join(LOCAL)}"])
        recipe, _ = load_recipe(path, overrides or ())
        made = make_plan(
            recipe,
            gpus=gpus,
            gpu_memory=gpu_memory and gpu_memory * 1e9,
            engine=engine,
            rate=rate and rate * 1e12,
        )
        if as_json:
            print(json.dumps(as_dict(made), indent=2))
        else:
            print_plan(made, engine=engine)
