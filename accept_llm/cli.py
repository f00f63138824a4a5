"""The command line. Each command imports what it needs itself, so that `--help` is quick, and
checks what it can before torch is loaded; a RecipeError is printed whole and ends with exit code 2.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accept_llm.cli_errors import complain, plain_errors, quiet, say
from accept_llm.cli_swarm import app as swarm_app
from accept_llm.ranks import ensure_ranks, is_first, is_first_here
from accept_llm.recipe_errors import Problems, RecipeError

if TYPE_CHECKING:
    from accept_llm.recipe import Recipe

app = typer.Typer(
    help="Prompt tuning of frozen language models with ACCEPT.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
recipes_app = typer.Typer(help="List the recipes that ship, or copy one to edit.")
data_app = typer.Typer(help="Get data sets.", no_args_is_help=True)
app.add_typer(recipes_app, name="recipes")
app.add_typer(data_app, name="data")
app.add_typer(swarm_app, name="swarm", no_args_is_help=True)

RecipePath = Annotated[Path, typer.Argument(help="A recipe (YAML).", show_default=False)]
RunPath = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Changes, such as train.steps=100.", show_default=False)
]
Peers = Annotated[
    list[str] | None, typer.Option(help="By the swarm of this server, which has its blocks.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Try, even where the plan says that memory is too small.")
]
# The `deepspeed` launcher says it here as well as in LOCAL_RANK, which is what counts.
LocalRank = Annotated[int | None, typer.Option("--local_rank", hidden=True)]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")]


@app.command()
def validate(paths: Annotated[list[Path], typer.Argument(help="Recipes.")]) -> None:
    """Check recipes; loads no model and no data."""
    from accept_llm.recipe import load_recipe

    failed = False
    for path in paths:
        try:
            load_recipe(path)
            print(f"{path}: ok")
        except RecipeError as error:
            failed = True
            complain(str(error))
    if failed:
        raise typer.Exit(2)


@app.command("schema")
def print_schema() -> None:
    """Print the JSON schema of a recipe."""
    from accept_llm.recipe import schema

    print(schema())


@recipes_app.callback(invoke_without_command=True)
def list_recipes(context: typer.Context) -> None:
    """List the recipes that ship."""
    if context.invoked_subcommand is None:
        from accept_llm.shipped import describe_recipe, shipped_recipes

        for name, path in shipped_recipes().items():
            print(f"{name}\n    " + describe_recipe(path).replace("\n", "\n    "))


@recipes_app.command("copy")
def copy(
    name: Annotated[str, typer.Argument(help="Its name in the list.")],
    to: Annotated[Path, typer.Argument(help="A file or a folder.")] = Path(),
) -> None:
    """Put a shipped recipe in front of you, to edit."""
    with plain_errors():
        from accept_llm.shipped import copy_recipe

        print(copy_recipe(name, to))


@data_app.command("fetch")
def fetch(
    task: Annotated[str, typer.Argument(help="A task, such as sst2.")],
    out: Annotated[Path, typer.Option(help="The folder for ACCEPT_DATA_DIR.")],
) -> None:
    """Download a task's rows, to use where there is no network."""
    with plain_errors():
        from accept_llm.data import fetch_task

        print(fetch_task(task, out))


@app.command()
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
        from accept_llm import show

        if name is None and model is not None:
            raise RecipeError([f"--model: got {model!r} without a task; allowed: tasks NAME"])
        if name is None:
            show.print_table()
        else:
            quiet()
            print(show.show_task(name, model))


@app.command()
def plan(
    path: RecipePath,
    overrides: Overrides = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="Ranks: GPUs, or processes on a CPU.")
    ] = None,
    gpu_memory: Annotated[
        float | None, typer.Option(min=0.1, help="GB of each GPU; default: what this machine has.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="single, ddp, fsdp2 or zero3.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=1e-6, help="TFLOP/s of a device, for the time of a step.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, in bytes.")] = False,
) -> None:
    """Say whether a recipe fits, under every engine and weight format; loads no weight."""
    with plain_errors():
        from accept_llm.plan import make_plan
        from accept_llm.plan.show import as_dict, print_plan
        from accept_llm.preflight import LOCAL
        from accept_llm.recipe import load_recipe

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
        from accept_llm.recipe import load_recipe

        recipe, notes = load_recipe(path, overrides or ())
        for note in notes:
            say(f"note: {note}")
        from accept_llm.preflight import check_train

        checked = check_train(recipe, engine_kind, resume=resume)
        # The launcher's own process does not know the number of ranks yet.
        if not force and is_first_here() and (engine_kind == "single" or "RANK" in os.environ):
            from accept_llm.plan import check_memory

            unknown = check_memory(recipe, engine_kind, checked.splits.train)
            if unknown:
                say(f"note: {unknown}")
        if engine_kind not in ("single", "petals"):
            ensure_ranks(engine_kind)
        if resume and not recipe.run_dir.exists():
            say(f"note: there is no {recipe.run_dir} to resume; the run starts at step 0")
        say(f"{recipe.name}: {checked.splits.counted}; loading the model")
        if checked.info is None and "RANK" not in os.environ:
            from accept_llm.models import fetch_model

            fetch_model(recipe.model)  # one that cannot be had shows before torch is loaded
        with _running():
            from accept_llm.run import train as run_training

            run_training(checked, engine_kind=engine_kind, resume=resume, say=say)
    result = recipe.run_dir / "result.json"
    if is_first() and result.exists():
        from accept_llm.results import print_result

        print_result(json.loads(result.read_text()))


@contextmanager
def _running() -> Iterator[None]:
    """Training, or a backbone, that cannot go on: a message, and exit code 1."""
    quiet()
    from accept_llm.backbones import BackboneError
    from accept_llm.trainer import TrainingError

    try:
        yield
    except (BackboneError, TrainingError) as error:
        complain(str(error))
        raise typer.Exit(1) from None


def _remark(text: str) -> None:
    """Beside what a command prints for programs."""
    print(text, file=sys.stderr)


@app.command()
def train(
    path: RecipePath, overrides: Overrides = None, resume: Resume = False, force: Force = False
) -> None:
    """Train a recipe on this machine's CPU or GPU."""
    train_with("single", path, overrides, resume=resume, force=force)


def _overridden(run: Path, overrides: list[str] | None) -> "Recipe":
    """The recipe of a run folder with changes, wherever the folder lies now."""
    from accept_llm.preflight import RECIPE_FILE, moved, read_run
    from accept_llm.recipe import load_recipe

    recipe = read_run(run)
    if overrides:
        recipe, notes = load_recipe(run / RECIPE_FILE, overrides)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    return moved(recipe, run)


@app.command()
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
        from accept_llm.adapter_card import read_card
        from accept_llm.preflight import ADAPTER, check, check_adapter, on_swarm

        recipe, kind = on_swarm(_overridden(run, overrides), peers)
        read_card(run / ADAPTER)
        checked = check(recipe, kind)
        check_adapter(recipe, checked.info, kind)
        with _running():
            from accept_llm import run as running

            scores = running.evaluate(checked, engine_kind=kind, split=split, say=_remark)
    print(json.dumps({"split": split, **scores}))


@app.command()
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
        from accept_llm.preflight import ADAPTER, on_swarm, read_run

        recipe, kind = on_swarm(read_run(run), peers)
        task, examples = _prediction_of(recipe, kind, source, out)
        with _running():
            from accept_llm.evaluate import as_json
            from accept_llm.inputs import write_lines
            from accept_llm.run import predict_examples

            adapter = recipe.run_dir / ADAPTER
            found = predict_examples(
                recipe, task, examples, adapter=adapter, engine_kind=kind, say=_remark
            )
        lines = [json.dumps(as_json(task, p), ensure_ascii=False) for p in found]
        write_lines(out, lines)


def _prediction_of(
    recipe: "Recipe", engine_kind: str, source: Path | None, out: Path | None
) -> tuple[Any, list[Any]]:
    """Task and examples, checked all at once."""
    from accept_llm.inputs import check_new, read_inputs
    from accept_llm.models import inspect_model
    from accept_llm.preflight import check_adapter
    from accept_llm.tasks import task_from

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


def main() -> None:
    """Entry point of the console script."""
    app()
