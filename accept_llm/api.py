"""Wires recipe, data, model, prompt, engine and trainer together; with cli.py the only one
that knows them all.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from accept_llm.adapter.card import base_model, check_fits, tokenizer_hash
from accept_llm.adapter.folder import head_card, load_prompt, shape_card
from accept_llm.backbones.loading import choose_layout, local_shard
from accept_llm.checks import Checked, prompt_shape
from accept_llm.data.encoding import Encoded, Encoder
from accept_llm.engines.base import Engine, open_engine
from accept_llm.heads import Generate, Head, answers_of, build_head
from accept_llm.methods.init import build_prompt
from accept_llm.models.find import fetch_model
from accept_llm.models.folder import ModelInfo
from accept_llm.models.tokenizer import load_tokenizer
from accept_llm.recipe.engine import EngineSpec
from accept_llm.recipe.model import ModelSpec
from accept_llm.recipe.recipe import Recipe, dump_recipe
from accept_llm.runs.folder import ADAPTER, RECIPE_FILE
from accept_llm.runs.log import RunLog
from accept_llm.runs.report import model_card, plot_curves
from accept_llm.runs.result import environment, peak_memory
from accept_llm.storage import cache_dir, write_json, write_text
from accept_llm.swarm import probe
from accept_llm.swarm.folder import FAMILIES, check_family
from accept_llm.tasks.base import Example, Task
from accept_llm.training.evaluate import Model, Prediction, predict, score
from accept_llm.training.trainer import Trainer

Notify = Callable[[str], None]
SPLITS = ("train", "validation", "test")
BUCKETS = {"causal": 1, "seq2seq": 32}  # train.bucket, where a recipe leaves it open


@contextmanager
def engine_for(kind: str, spec: EngineSpec | None = None) -> Iterator[Engine]:
    """Opens an engine and closes it whatever happens."""
    engine = open_engine(kind, spec)
    try:
        yield engine
    finally:
        engine.close()


@dataclass(frozen=True)
class Loaded:
    """A model with its prompt and head, and how to encode examples for it."""

    model: Model
    info: ModelInfo
    encode: Encoder
    probe: probe.Probe | None
    """What the model computes for the probe text, where a swarm could be asked for it too."""


def _local_model(recipe: Recipe, engine: Engine) -> ModelInfo:
    """The model's folder; rank 0 downloads or converts while the others wait, then the first rank
    of a machine that does not share its folders."""
    for is_due in (engine.rank == 0, os.environ.get("LOCAL_RANK", "0") == "0"):
        if is_due:
            fetch_model(recipe.model)
        engine.gather([engine.rank])
    return fetch_model(recipe.model)


def load(
    recipe: Recipe,
    task: Task,
    engine: Engine,
    *,
    notify: Notify = print,
    adapter: Path | None = None,
) -> Loaded:
    """Loads the backbone, and a fresh prompt and head or those of an adapter folder.

    Sizes, tokenizer, head and adapter are checked before any weight is loaded; what others compute
    is checked as soon as there is a connection to them.
    """
    info = _local_model(recipe, engine)
    shape = prompt_shape(recipe, info)
    longest = shape.length + shape.positions
    layout = engine.layout or choose_layout(
        info, asked=recipe.model.layout, longest=longest, device=engine.device.type
    )
    trained = load_prompt(adapter) if adapter else None
    if trained:
        check_fits(trained.card, recipe.model, info)
    tokenizer = load_tokenizer(info.folder)
    seed, seq2seq = recipe.train.seed, info.architecture == "seq2seq"
    head = (
        trained.head
        if trained
        else build_head(
            recipe.head,
            task,
            hidden=info.hidden_size,
            tokenizer=tokenizer,
            seed=seed,
            encoder_decoder=seq2seq,
        )
    )
    backbone = engine.load_backbone(recipe.model, info, layout)
    prompt = (
        trained.prompt
        if trained
        else build_prompt(
            recipe.prompt, shape, embed=backbone.embed, vocab_size=backbone.vocab_size, seed=seed
        )
    )
    device = engine.device
    model = Model(engine, backbone, prompt.to(device), head.to(device), tokenizer)
    answer_of = answers_of(head, tokenizer, encoder_decoder=seq2seq)
    cache = (cache_dir() / "tokens", tokenizer_hash(info.folder))
    encode = Encoder(tokenizer, task, recipe.task, answer_of=answer_of, cache=cache)
    found = None
    if info.model_type in FAMILIES:
        found = probe.take(backbone, tokenizer, info, probe.kind_of(recipe.model), device=device)
        if engine.is_remote:
            notify(probe.check_recorded(found, info, adapter))
    return Loaded(model, info, encode, found)


def record_probe(spec: ModelSpec) -> Path:
    """Computes the probe text with the whole model on one device, for swarms to be checked by;
    where it is kept."""
    with engine_for("single") as engine:
        info = fetch_model(spec)
        check_family(info)
        backbone = engine.load_backbone(spec, info, "padded")
        tokenizer, kind = load_tokenizer(info.folder), probe.kind_of(spec)
        found = probe.take(backbone, tokenizer, info, kind, device=engine.device)
        return probe.record(found, info)


def train(checked: Checked, *, engine_kind: str, resume: bool, notify: Notify) -> None:
    """Trains a checked recipe and writes its run folder."""
    recipe, splits = checked.recipe, checked.splits
    with engine_for(engine_kind, recipe.engine) as engine:
        clock = {"start": time.perf_counter()}
        loaded = load(recipe, splits.task, engine, notify=notify)
        rows = {name: loaded.encode(getattr(splits, name)) for name in SPLITS}
        truncated = count_truncated(rows["train"], loaded.model.head)
        for what, count in truncated.items():
            notify(f"{count} of {len(rows['train'])} training rows: {what}")
        clock["loaded"] = time.perf_counter()
        folder = recipe.run_dir
        if engine.rank == 0:
            folder.mkdir(parents=True, exist_ok=resume)
            write_text(folder / RECIPE_FILE, dump_recipe(recipe))
        engine.gather([engine.rank])  # the folder is there for every rank
        spec = recipe.train
        log = RunLog(
            folder,
            steps=spec.steps,
            log_every=spec.log_every,
            writes=engine.rank == 0,
            tensorboard=spec.tensorboard,
        )
        trainer = _trainer(recipe, splits.task, loaded, rows, log)
        if resume:
            trainer.resume()
        with log:
            trainer.run()
        if trainer.stopped_by_signal:
            notify(f"stopped by SIGTERM at step {trainer.step}; continue with --resume")
            return
        clock["trained"] = time.perf_counter()
        result = _finish(recipe, splits.task, loaded, rows, trainer)
        result["truncated_training_rows"] = truncated
        result["seconds"] = {
            "load": clock["loaded"] - clock["start"],
            "train_steps": log.seconds,
            "train_and_validate": clock["trained"] - clock["loaded"],
            "test": time.perf_counter() - clock["trained"],
        }
        if engine.rank == 0:
            _write_results(folder, result, metric=splits.task.metric)


def count_truncated(rows: list[Encoded], head: Head) -> dict[str, int]:
    """How many training rows lost their answer, and to which limit; {} where none is written."""
    if not isinstance(head, Generate):
        return {}
    long = sum(row.answer[-1] != head.generation.end for row in rows)
    return {
        "the answer was cut out of the text (task.max_length)": sum(row.lost for row in rows),
        "the answer itself was cut (head.max_new_tokens)": long,
    }


def _trainer(
    recipe: Recipe,
    task: Task,
    loaded: Loaded,
    rows: dict[str, list[Encoded]],
    log: RunLog,
) -> Trainer:
    size = recipe.train.eval_batch_size

    def validate() -> tuple[float, dict[str, float]]:
        found = predict(loaded.model, rows["validation"], batch_size=size)
        scores = score(task, rows["validation"], found)
        finite = math.isfinite(scores["loss"])
        return (scores[task.metric] if finite else math.nan), scores

    bucket = recipe.train.bucket or BUCKETS[loaded.info.architecture]
    return Trainer(
        spec=recipe.train.model_copy(update={"bucket": bucket}),
        model=loaded.model,
        rows=rows["train"],
        validate=validate,
        log=log,
        folder=recipe.run_dir,
        card=_card(recipe, task, loaded),
    )


def model_name(recipe: Recipe) -> str:
    """The model as a person would name it."""
    model = recipe.model
    if model.kind == "hub":
        return model.id
    return model.path if model.kind == "folder" else model.file


def _card(recipe: Recipe, task: Task, loaded: Loaded) -> dict[str, Any]:
    """prompt.json: what an adapter must say of itself to be loaded anywhere."""
    return {
        "model": {
            "name": model_name(recipe),
            **base_model(recipe.model, loaded.info),
            "weights": recipe.model.weights,
        },
        "task": {"name": task.name, "labels": list(task.labels), "metric": task.metric},
        "prompt": shape_card(loaded.model.prompt.shape),
        "head": head_card(loaded.model.head),
        **({probe.KEY: asdict(loaded.probe)} if loaded.probe else {}),
    }


def _finish(
    recipe: Recipe, task: Task, loaded: Loaded, rows: dict[str, list[Encoded]], trainer: Trainer
) -> dict[str, Any]:
    """Scores the best prompt on the test split; result.json's content."""
    trainer.load_best()
    model, engine, best = loaded.model, loaded.model.engine, trainer.best
    assert best is not None
    found = predict(model, rows["test"], batch_size=recipe.train.eval_batch_size)
    trainable = {name: sum(p.numel() for p in ps) for name, ps in model.prompt.groups().items()}
    trainable["head"] = sum(p.numel() for p in model.head.parameters())
    return {
        "name": recipe.name,
        "folder": str(recipe.run_dir),
        "model": model_name(recipe),
        "task": task.name,
        "validation": best["scores"],
        "test": score(task, rows["test"], found),
        "rows": {name: len(rows[name]) for name in SPLITS},
        "steps": trainer.step,
        "best_step": best["step"],
        "trainable": {**trainable, "total": sum(trainable.values())},
        "engine": {"kind": engine.kind, "ranks": engine.world_size, "device": str(engine.device)},
        "frozen_bytes_per_rank": engine.gather([frozen_bytes(model.backbone.module)]),
        "peak_memory_per_rank": engine.gather([peak_memory()]),
        "seeds": {"train": recipe.train.seed, "split": recipe.task.split_seed},
        **environment(),
    }


def frozen_bytes(module: torch.nn.Module) -> int:
    """Bytes of frozen weights that this process itself holds."""
    parts = [local_shard(parameter) for parameter in module.parameters()]
    return sum(part.numel() * part.element_size() for part in parts)


def _write_results(folder: Path, result: dict[str, Any], *, metric: str) -> None:
    write_json(folder / "result.json", result)
    write_text(folder / "README.md", model_card(result))
    plot_curves(folder, metric=metric)


# --- after training ---------------------------------------------------------------------


def evaluate(
    checked: Checked, *, engine_kind: str, split: str, notify: Notify = print
) -> dict[str, float]:
    """Scores the adapter of a run folder on a split of its task."""
    recipe, splits = checked.recipe, checked.splits
    with engine_for(engine_kind, recipe.engine) as engine:
        loaded = load(recipe, splits.task, engine, notify=notify, adapter=recipe.run_dir / ADAPTER)
        rows = loaded.encode(getattr(splits, split))
        found = predict(loaded.model, rows, batch_size=recipe.train.eval_batch_size)
        return score(splits.task, rows, found)


def predict_examples(
    recipe: Recipe,
    task: Task,
    examples: list[Example],
    *,
    adapter: Path,
    engine_kind: str = "single",
    notify: Notify = print,
) -> list[Prediction]:
    """Predictions of an adapter for new examples."""
    with engine_for(engine_kind, recipe.engine) as engine:
        loaded = load(recipe, task, engine, notify=notify, adapter=adapter)
        rows = loaded.encode(examples)
        return predict(loaded.model, rows, batch_size=recipe.train.eval_batch_size)
