"""One run, from a prepared recipe to a finished run folder."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from accept_llm.adapter.card import Card, TaskSection, describe_base
from accept_llm.backbones.loading import local_shard
from accept_llm.checks import Prepared
from accept_llm.data.encoding import Encoded
from accept_llm.data.splits import SPLITS
from accept_llm.drafts import remove_drafts
from accept_llm.engines.base import Engine, opened_engine
from accept_llm.errors import Notify, Problems, RecipeError, cannot_write
from accept_llm.heads import Head
from accept_llm.recipe.budget import PromptShape
from accept_llm.recipe.recipe import Recipe, dump_recipe
from accept_llm.recipe.train import HEAD, Train
from accept_llm.runs.folder import RECIPE_FILE, lock_run
from accept_llm.runs.log import RunLog
from accept_llm.runs.report import model_card, plot_curves
from accept_llm.runs.result import RESULT, EngineUsed, Result, environment, peak_memory
from accept_llm.storage import write_json, write_text
from accept_llm.tasks.base import Task
from accept_llm.training.evaluate import predict, score
from accept_llm.training.loading import Loaded, load
from accept_llm.training.signals import Stopped
from accept_llm.training.state import Origin, digest
from accept_llm.training.trainer import Output, Trainer, TrainingError

BUCKETS = {"causal": 1, "seq2seq": 32}  # train.bucket, where a recipe leaves it open

Rows = dict[str, list[Encoded]]


def train(
    prepared: Prepared, *, engine_kind: str, resume: bool | str, notify: Notify, bar: bool = False
) -> Result:
    """Trains a prepared recipe and writes its run folder. Raises `Stopped` where a signal ended it
    early, `TrainingError` where it cannot go on."""
    recipe = prepared.recipe
    with opened_engine(engine_kind, recipe.engine) as engine, ExitStack() as stack:
        clock = [time.perf_counter()]
        loaded = load(prepared, engine, notify=notify)
        _explain_rates(loaded, recipe.train, notify=notify)
        rows = {name: loaded.encode(getattr(prepared.rows, name)) for name in SPLITS}
        truncated = count_truncated(rows["train"], loaded.model.head)
        for what, count in truncated.items():
            notify(f"{count} of {len(rows['train'])} training rows: {what}")
        clock.append(time.perf_counter())
        stack.enter_context(_explained(recipe.run_dir))
        stack.enter_context(_open_folder(recipe, engine, resume=bool(resume)))
        trainer = _trainer(prepared, loaded, rows=rows, notify=notify, bar=bar)
        if resume:
            for note in trainer.resume(changed_data=resume == "changed-data"):
                notify(f"note: {note}")
        with trainer.log:
            trainer.run()
        if trainer.stopped_by:
            raise Stopped(trainer.stopped_by, trainer.step)
        clock.append(time.perf_counter())
        measured = _finish(prepared, loaded, rows=rows, trainer=trainer)
        clock.append(time.perf_counter())
        loading, training, testing = (b - a for a, b in pairwise(clock))
        result = Result(
            **measured,
            truncated_training_rows=truncated,
            seconds={
                "load": loading,
                "train_steps": trainer.log.seconds,
                "train_and_validate": training,
                "test": testing,
            },
        )
        if engine.rank == 0:
            _write_results(recipe.run_dir, result, metric=prepared.task.metric)
        return result


def _explain_rates(loaded: Loaded, spec: Train, *, notify: Notify) -> None:
    """Says what the rates of a prompt are shares of, so that one meant for other units is seen."""
    method = loaded.model.method
    scale = method.shape.scale if isinstance(method.shape, PromptShape) else None
    if scale is not None:
        rates = ", ".join(f"{spec.lr[name]:.2%} ({name})" for name in method.groups())
        notify(
            f"the word embeddings have deviation {scale:.4g}; a step at the peak rate moves a "
            f"prompt by this share of it: {rates}"
        )


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """TrainingError where the run folder cannot be written before the first step, or after the
    last."""
    try:
        yield
    except OSError as error:
        todo = "once it can, --resume goes on"
        raise TrainingError(f"{cannot_write(error, folder)}; {todo}") from error


@contextmanager
def _open_folder(recipe: Recipe, engine: Engine, *, resume: bool) -> Iterator[None]:
    """The run folder, ours until the end; RecipeError on every rank where another has it."""
    folder, lock, problems = recipe.run_dir, None, Problems()
    if engine.rank == 0:
        with problems.catch():
            lock = _take_folder(folder, resume=resume)
            write_text(folder / RECIPE_FILE, dump_recipe(recipe))
    try:
        problems.lines = engine.gather(problems.lines)  # and the folder is there for every rank
        problems.check()
        yield
    finally:
        if lock is not None:
            lock.release()


def _take_folder(folder: Path, *, resume: bool) -> FileLock:
    try:
        folder.mkdir(parents=True, exist_ok=resume)
    except FileExistsError:  # it was not there when the recipe was checked
        got = f"name: another run has made the folder {folder}"
        raise RecipeError([f"{got}; allowed: another name (name=...)"]) from None
    lock = lock_run(folder)
    remove_drafts(folder)
    return lock


def count_truncated(rows: list[Encoded], head: Head) -> dict[str, int]:
    """How many training rows lost their answer, and to which limit; {} where a head generates no
    text of its own."""
    if not head.generates:
        return {}
    return {
        "the text had no room for the answer (task.max_length)": sum(row.lost for row in rows),
        "the answer was truncated (head.max_new_tokens)": sum(map(head.is_truncated, rows)),
    }


def _trainer(
    prepared: Prepared, loaded: Loaded, *, rows: Rows, notify: Notify, bar: bool
) -> Trainer:
    recipe, task = prepared.recipe, prepared.task
    spec, engine = recipe.train, loaded.model.engine
    bucket = spec.bucket or BUCKETS[loaded.info.architecture]
    card = _card(recipe, task, loaded=loaded)
    log = RunLog(recipe.run_dir, spec, writes=engine.rank == 0, notify=notify, bar=bar)
    return Trainer(
        spec=spec.model_copy(update={"bucket": bucket}),
        model=loaded.model,
        rows=rows["train"],
        validate=_validation(
            task, loaded, rows=rows["validation"], batch_size=spec.eval_batch_size
        ),
        log=log,
        output=Output(recipe.run_dir, card, _origin(card, prepared)),
    )


def _origin(card: Card, prepared: Prepared) -> Origin:
    model = {"weights": card.model.fingerprint or "", "tokenizer": card.model.tokenizer}
    model |= card.model.configs
    return Origin(model, {name: digest(getattr(prepared.rows, name)) for name in SPLITS})


def _validation(
    task: Task, loaded: Loaded, *, rows: list[Encoded], batch_size: int
) -> Callable[[], tuple[float, dict[str, float]]]:
    """Gives the main score, nan where the loss is not finite, and all scores."""

    def validate() -> tuple[float, dict[str, float]]:
        found = predict(loaded.model, rows, batch_size=batch_size)
        scores = score(task, rows, predictions=found)
        finite = math.isfinite(scores["loss"])
        return (scores[task.metric] if finite else math.nan), scores

    return validate


def model_name(recipe: Recipe) -> str:
    """The model as a person would name it."""
    model = recipe.model
    if model.kind == "hub":
        return model.id
    return model.path if model.kind == "folder" else model.file


def _card(recipe: Recipe, task: Task, *, loaded: Loaded) -> Card:
    """prompt.json: what an adapter must say of itself to be loaded anywhere."""
    return Card(
        model=describe_base(recipe.model, loaded.info, name=model_name(recipe)),
        task=TaskSection(name=task.name, labels=list(task.labels), metric=task.metric),
        method=loaded.model.method.card(),
        head=loaded.model.head.card(),
        probe=asdict(loaded.probe) if loaded.probe else None,
    )


def _finish(prepared: Prepared, loaded: Loaded, *, rows: Rows, trainer: Trainer) -> dict[str, Any]:
    """Scores the best step on the test split; the most of result.json."""
    trainer.load_best()
    recipe, task, best = prepared.recipe, prepared.task, trainer.best
    model, engine = loaded.model, loaded.model.engine
    assert best is not None
    found = predict(model, rows["test"], batch_size=recipe.train.eval_batch_size)
    groups = {**model.method.groups(), HEAD: list(model.head.parameters())}
    trainable = {name: sum(p.numel() for p in group) for name, group in groups.items()}
    return {
        "name": recipe.name,
        "folder": str(recipe.run_dir),
        "model": model_name(recipe),
        "task": task.name,
        "validation": best["scores"],
        "test": score(task, rows["test"], predictions=found),
        "rows": {name: len(rows[name]) for name in SPLITS},
        "row_digests": dict(trainer.origin.rows),
        "steps": trainer.step,
        "best_step": best["step"],
        "history": trainer.history,
        "trainable": {**trainable, "total": sum(trainable.values())},
        "engine": EngineUsed(kind=engine.kind, ranks=engine.world_size, device=str(engine.device)),
        "frozen_bytes_per_rank": engine.gather([frozen_bytes(model.backbone.module)]),
        "peak_memory_per_rank": engine.gather([peak_memory()]),
        "seeds": {"train": recipe.train.seed, "split": recipe.task.split_seed},
        **environment(),
    }


def frozen_bytes(module: torch.nn.Module) -> int:
    """Bytes of frozen weights that this process itself holds."""
    shards = [local_shard(parameter) for parameter in module.parameters()]
    return sum(shard.numel() * shard.element_size() for shard in shards)


def _write_results(folder: Path, result: Result, *, metric: str) -> None:
    write_json(folder / RESULT, result.model_dump(mode="json"))
    write_text(folder / "README.md", model_card(result))
    plot_curves(folder, metric=metric)
