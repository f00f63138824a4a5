"""Wall time until a validation accuracy: a recipe's own run against PEFT's prompt tuning with as
many trained numbers, on the same batches, validation rows, schedule and steps.

Each side is a process of its own, one after the other; the clock starts with the process, and
loading and validation count. With a target, a side is stopped where it reaches it, and PEFT after
`--give-up` times accept_llm's time. `python -m benchmarks.accuracy RECIPE [a.b=c ...]` is PEFT's
side: a plain loop with what a careful user would write.
"""

import argparse
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from accept_llm.data.encoding import Encoded, Encoder
from accept_llm.data.sampling import BatchSampler
from accept_llm.data.splits import load_splits
from accept_llm.methods.base import Start
from accept_llm.methods.start import embedding_scale
from accept_llm.models.find import fetch_model
from accept_llm.recipe.recipe import Recipe, load_recipe
from benchmarks.measure import load_line, machine
from benchmarks.sides import STATE, Peft, Source, Variant
from benchmarks.tables import number, save, table
from benchmarks.texts import tokenizer_of

# What both sides print at an evaluation; accept_llm's command line has the same words.
EVALUATION = re.compile(r"step (\d+)/\d+ +validation: \w+ ([\d.]+)")

Curve = list[dict[str, float]]
"""step, score, and the seconds since the process began."""


def timed_run(
    command: Sequence[str], *, target: float | None = None, limit: float = math.inf
) -> Curve:
    """Runs a training and notes when it prints an evaluation, until the score is at least `target`
    or the first evaluation after `limit` seconds."""
    began, curve = time.perf_counter(), []
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            found = EVALUATION.search(line)
            if found:
                seconds = time.perf_counter() - began
                curve.append({"step": int(found[1]), "score": float(found[2]), "seconds": seconds})
                print(f"  {seconds:8.1f} s  {found[0]}", flush=True)
                if seconds > limit or (target is not None and curve[-1]["score"] >= target):
                    process.kill()
                    return curve
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return curve


def seconds_until(curve: Curve, target: float) -> float | None:
    """When the score was first at least `target`."""
    return next((point["seconds"] for point in curve if point["score"] >= target), None)


def to_accuracy(args: argparse.Namespace, recipe: Path) -> None:
    """Both sides of `--to-accuracy`, and the table."""
    changes = [f"train.steps={args.steps}", f"train.eval_every={args.eval_every}"]
    changes += [f"task.kind={args.task}"] if args.task else []
    changes += [f"train.batch_size={args.batch}"] if args.batch else []
    changes += [f"model.dtype={args.dtype}"] if args.dtype else []
    changes += ["model.kind=folder", f"model.path={args.model}"] if args.model else []
    sides = {"accept_llm": "accept_llm", "PEFT": "benchmarks.accuracy"}
    curves: dict[str, Curve] = {}
    loads, limit = {}, math.inf
    with tempfile.TemporaryDirectory() as folder:
        for name, module in sides.items():
            verb = ["train"] if module == "accept_llm" else []
            own = [f"output_dir={folder}"] if module == "accept_llm" else []
            loads[name] = load_line()
            print(f"{name}; {loads[name]}", flush=True)
            command = [sys.executable, "-m", module, *verb, str(recipe), *changes, *own]
            curves[name] = timed_run(command, target=args.target, limit=limit)
            if args.target is not None:
                limit = args.give_up * curves[name][-1]["seconds"]
    found = summary(curves, args.target)
    data = {"curves": curves, "loads": loads, "changes": changes, "machine": machine(), **found}
    save(
        "accuracy", data, text=text_of(found, f"{recipe.stem}, {', '.join(changes)}"), out=args.out
    )


def summary(curves: dict[str, Curve], target: float | None) -> dict[str, Any]:
    """When each side reached the target (PEFT's best without one), and ours in parts of PEFT's.
    Where PEFT never does, its time is that of its best."""
    best = {name: max(curve, key=lambda point: point["score"]) for name, curve in curves.items()}
    target = best["PEFT"]["score"] if target is None else target
    until = {name: seconds_until(curve, target) for name, curve in curves.items()}
    ours, theirs = until["accept_llm"], until["PEFT"] or best["PEFT"]["seconds"]
    share = ours / theirs if ours else None
    return {"target": target, "best": best, "seconds_until": until, "share": share}


def text_of(found: dict[str, Any], title: str) -> str:
    columns = {
        "side": lambda name: name,
        "best validation score": lambda name: found["best"][name]["score"],
        "at step": lambda name: found["best"][name]["step"],
        "after, s": lambda name: found["best"][name]["seconds"],
        f"until {found['target']:.4f}, s": lambda name: found["seconds_until"][name],
    }
    share = number(found["share"])
    return (
        f"## Time to accuracy: {title}\n\n{table(columns, list(found['best']))}\n"
        f"accept_llm's time until then is {share} of PEFT's (m = 100; of its best where it never "
        "gets there, or was stopped). One run of each, loading and validation included.\n"
    )


# --- PEFT's side ------------------------------------------------------------------------


def train_peft(path: str, changes: Sequence[str]) -> None:
    """The recipe's task, model and schedule, with PEFT's prompt of m = 100."""
    recipe = load_recipe(path, changes)[0]
    spec, info = recipe.train, fetch_model(recipe.model)
    splits = load_splits(recipe.task, seed=spec.seed)
    encode = Encoder(tokenizer_of(info.folder), splits.task, spec=recipe.task)
    rows, held = encode(splits.train), encode(splits.validation)
    draw = BatchSampler([len(row.tokens) for row in rows], spec)
    variant = Variant("peft", "PEFT", STATE, "peft", m=recipe.method.tokens, mask=False)
    torch.manual_seed(spec.seed)
    source = Source(info, recipe.model.dtype)
    side = Peft(variant, source.plain(), classes=len(splits.task.labels))
    side.start_from_vocabulary(seed=spec.seed)
    prompt, head = side.parameters
    side.optimizer = torch.optim.AdamW(
        [
            {"params": [prompt], "lr": spec.lr["prepended"] * unit_of(recipe, side)},
            {"params": [head], "lr": spec.lr["head"]},
        ],
        weight_decay=0.0,
    )
    warm, decay = max(1, spec.warmup_steps), max(1, spec.steps - spec.warmup_steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        side.optimizer, lambda step: min((step + 1) / warm, (spec.steps - step) / decay)
    )
    for step in range(spec.steps):
        side.step(side.prepare([rows[i] for i in draw.rows(step)]))
        schedule.step()
        if (step + 1) % spec.eval_every == 0 or step + 1 == spec.steps:
            accuracy = accuracy_of(side, held, size=spec.eval_batch_size)
            print(f"step {step + 1}/{spec.steps}  validation: accuracy {accuracy:.4f}", flush=True)


@torch.no_grad()
def unit_of(recipe: Recipe, side: Peft) -> float:
    """What a recipe's rates are in units of: PEFT has the vectors' own numbers."""
    words, draw = side.lm.get_input_embeddings(), torch.Generator()
    start = Start(lambda ids: words(ids.to(side.device)), words.num_embeddings, draw)
    return embedding_scale(start) if getattr(recipe.method, "scale", "") == "embeddings" else 1.0


@torch.no_grad()
def accuracy_of(side: Peft, rows: Sequence[Encoded], *, size: int) -> float:
    """Sorted by length, so that little is padded."""
    ranked = sorted(rows, key=lambda row: len(row.tokens))
    right = 0
    for start in range(0, len(ranked), size):
        inputs = side.prepare(ranked[start : start + size])
        right += int((side.scores(inputs).argmax(1) == inputs[-1]).sum())
    return right / len(rows)


if __name__ == "__main__":
    train_peft(sys.argv[1], sys.argv[2:])
