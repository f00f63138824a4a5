"""Time and memory of one training step: accept_llm against PEFT's prompt tuning.

    python -m benchmarks.step [--task sst2] [--dtype fp32] [--only packed peft] [--repeats 3]
    python -m benchmarks.step --scaling         how both grow, one axis at a time
    python -m benchmarks.step --to-accuracy     time until a validation accuracy

The model is SmolLM2-135M as recipes/smollm2_sst2.yaml has it, or --model FOLDER. The batches are
those of SST-2 (32 a batch) and BoolQ (16) in ACCEPT_DATA_DIR; without it, the quick-start reviews.
"""

import argparse
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from accept_llm.backbones.loading import DTYPES
from accept_llm.models.find import fetch_model
from accept_llm.models.folder import ModelInfo
from accept_llm.recipe.model import FolderModel
from accept_llm.recipe.recipe import load_recipe
from benchmarks.accuracy import to_accuracy
from benchmarks.compute import linear_shapes, matmul_rate, share_of_ceiling
from benchmarks.measure import MEMORY, compare, load_line, machine, tokens_of
from benchmarks.scaling import scaling
from benchmarks.sides import INT8, VARIANTS, Source
from benchmarks.tables import RESULTS, rate_lines, save, table
from benchmarks.tables import VARIANTS as COLUMNS
from benchmarks.texts import Batches, real

RECIPE = Path(__file__).parent.parent / "recipes" / "smollm2_sst2.yaml"
SIZES = {"sst2": 32, "boolq": 16, "quickstart": 32}
KNOWN = (*VARIANTS, INT8)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--model", help="a model folder")
    made.add_argument("--task", choices=sorted(SIZES), help="only this one")
    made.add_argument("--dtype", choices=["fp32", "bf16"], help="the recipe's without it")
    made.add_argument("--batch", type=int, help="examples a batch")
    made.add_argument("--batches", type=int, default=3, help="how many different batches")
    made.add_argument("--repeats", type=int, default=3, help="of every batch")
    made.add_argument("--only", nargs="+", choices=[v.key for v in KNOWN], help="these variants")
    made.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    made.add_argument("--scaling", action="store_true")
    made.add_argument("--to-accuracy", action="store_true")
    made.add_argument("--steps", type=int, default=400, help="of --to-accuracy")
    made.add_argument("--eval-every", type=int, default=50, help="of --to-accuracy")
    made.add_argument("--target", type=float, help="of --to-accuracy; else PEFT's best")
    made.add_argument("--give-up", type=float, default=3.0, help="on PEFT, in our times")
    return made


def one_task(
    args: argparse.Namespace, task: str, *, info: ModelInfo, dtype: str
) -> tuple[dict, str]:
    """The comparison on a task's real batches, as data and as text."""
    source, began = Source(info, dtype), machine()
    size = args.batch or SIZES[task]
    batches, classes = real(task, info.folder, size=size, count=args.batches)
    variants = [v for v in KNOWN if v.key in (args.only or [v.key for v in VARIANTS])]
    lines = compare(
        source, variants, batches=batches, classes=classes, repeats=args.repeats, say=print
    )
    lengths = [len(row.tokens) for rows in batches for row in rows]
    data = {
        **{"task": task, "model": info.folder.name, "dtype": dtype, "batch": size},
        **{"tokens_a_batch": tokens_of(batches) / len(batches), "longest": max(lengths)},
        **{"batches": len(batches), "repeats": args.repeats, "variants": lines},
        **{"memory_is": MEMORY[source.device.type], "before": began, "after": machine()},
    }
    text = (
        f"## {task}: {len(batches)} batches of {size} ({statistics.mean(lengths):.1f} tokens each "
        f"in the mean, {max(lengths)} at most), {info.folder.name}, {dtype}\n\n"
        f"{table(COLUMNS, lines)}\nMedian of {args.repeats}, mean over the batches. "
        f"{load_line().capitalize()} ({began['cores']} cores, {began['threads']} threads).\n"
    )
    if lines[0]["key"] == "packed" and "seconds" in lines[0]:
        share, more = ceiling(source, batches, packed=lines[0], repeats=args.repeats)
        return data | share, f"{text}\n{more}"
    return data, text


def ceiling(
    source: Source, batches: Batches, *, packed: Mapping[str, Any], repeats: int
) -> tuple[dict[str, Any], str]:
    """What the packed step does of the machine's matmul rate, as data and as text."""
    config = AutoConfig.from_pretrained(source.info.folder)
    rate = matmul_rate(
        linear_shapes(config),
        round(packed["positions"]),
        dtype=DTYPES[source.dtype],
        device=source.device,
        repeats=repeats,
    )
    share = share_of_ceiling(config, batches, m=VARIANTS[0].m, seconds=packed["seconds"], rate=rate)
    return {"matmul_rate": rate, "packed_step": share}, rate_lines(rate, share)


def compare_steps(args: argparse.Namespace, info: ModelInfo, *, dtype: str) -> None:
    has_data = bool(os.environ.get("ACCEPT_DATA_DIR"))
    tasks = [args.task] if args.task else ["sst2", "boolq"] if has_data else ["quickstart"]
    found = [one_task(args, task, info=info, dtype=dtype) for task in tasks]
    data = {"tasks": [data for data, _ in found]}
    save("step", data, text="\n".join(text for _, text in found), out=args.out)


def main(given: Sequence[str] | None = None) -> None:
    args = parser().parse_args(given)
    spec = load_recipe(RECIPE)[0].model
    if args.model:
        spec = FolderModel(kind="folder", path=args.model, dtype=spec.dtype)
    dtype = args.dtype or spec.dtype
    if args.scaling:
        scaling(dtype, repeats=args.repeats, out=args.out)
    elif args.to_accuracy:
        to_accuracy(args, RECIPE)
    else:
        compare_steps(args, fetch_model(spec), dtype=dtype)


if __name__ == "__main__":
    main()
