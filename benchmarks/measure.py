"""How it is measured: time by turns, memory of one step, and the machine it was on."""

import contextlib
import ctypes
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.sides import Rows, Side, Source, Variant
from benchmarks.texts import Batches, ordered

Times = dict[str, list[list[float]]]
"""Of each variant, for each batch: the seconds of every repeat."""


def batches_for(variant: Variant, batches: Batches) -> Batches:
    """A fixed padding makes every batch cost the same: one is enough."""
    batches = ordered(batches) if variant.ordered else batches
    return batches[:1] if variant.pad else batches


def take_turns(
    sides: Mapping[str, Side], batches: Batches, *, repeats: int
) -> tuple[Times, dict[str, str]]:
    """The sides take turns step by step, so that whatever else the machine does hits them alike.
    One step of each is not counted. Gives the times, and what failed for lack of memory."""
    work = {key: batches_for(side.variant, batches) for key, side in sides.items()}
    failed: dict[str, str] = {}
    for key, side in sides.items():
        try:
            timed(side, work[key][0])
        except torch.OutOfMemoryError:
            failed[key] = "out of memory"
    times: Times = {key: [[] for _ in work[key]] for key in sides if key not in failed}
    for _ in range(repeats):
        for number in range(len(batches)):
            for key, per_batch in times.items():
                if number < len(per_batch):
                    per_batch[number].append(timed(sides[key], work[key][number]))
    return times, failed


def timed(side: Side, rows: Rows) -> float:
    """Seconds of one step."""
    inputs = side.prepare(rows)
    _wait()
    began = time.perf_counter()
    side.step(inputs)
    _wait()
    return time.perf_counter() - began


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(per_batch: Sequence[Sequence[float]]) -> float:
    """The mean over the batches of each one's median."""
    return statistics.mean(statistics.median(values) for values in per_batch)


# --- memory -----------------------------------------------------------------------------

MEMORY = {
    "cpu": "the process's largest resident size in one step (VmHWM, reset before it), less its "
    "resident size before it, in a process of its own after a step on one example: weights, "
    "libraries and optimizer state are in the base. It has what an allocator's own count has "
    "not: work space of the matrix libraries and what malloc keeps",
    "cuda": "torch.cuda.max_memory_allocated() in one step, less memory_allocated() before it",
}


def peak_of(side: Side, rows: Rows) -> int | None:
    """Bytes that a step needs above the weights; None where the system does not tell."""
    side.step(side.prepare([max(rows, key=lambda row: len(row.tokens))]))
    inputs = side.prepare(rows)
    side.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()
        side.step(inputs)
        return torch.cuda.max_memory_allocated() - base
    if platform.system() != "Linux":
        return None
    with contextlib.suppress(AttributeError):  # not glibc: what malloc keeps stays in the base
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back
    base = _status("VmRSS")
    side.step(inputs)
    return _status("VmHWM") - base


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def _peak_in_child(source: Source, variant: Variant, *, rows: Rows, classes: int) -> int | None:
    side = source.side(variant, classes=classes)
    for weight in side.lm.parameters():
        weight.sum()  # a mapped file is resident only once it was read
    return peak_of(side, rows)


# A clean server that has loaded the libraries: its forks need not.
CHILDREN = get_context("forkserver")
CHILDREN.set_forkserver_preload(
    ["accept_llm.backbones.loading", "transformers.models.llama.modeling_llama", "peft"]
)


def peak_alone(source: Source, variant: Variant, *, batches: Batches, classes: int) -> int | None:
    """`peak_of` the variant's largest batch, in a process of its own."""
    rows = max(batches_for(variant, batches), key=variant.positions)
    with ProcessPoolExecutor(1, mp_context=CHILDREN) as pool:
        work = partial(_peak_in_child, source, variant, rows=rows, classes=classes)
        return pool.submit(work).result()


# --- results ----------------------------------------------------------------------------


def results(
    variants: Sequence[Variant],
    batches: Batches,
    *,
    times: Times,
    peaks: Mapping[str, int | None],
    failed: Mapping[str, str],
) -> list[dict[str, Any]]:
    """A mapping for each variant; ratios are to the first one, of medians."""
    found: list[dict[str, Any]] = []
    for variant in variants:
        line: dict[str, Any] = {
            "key": variant.key,
            "variant": variant.name,
            "computes": variant.computes,
        }
        if variant.key in failed:
            found.append(line | {"failed": failed[variant.key]})
            continue
        mine = batches_for(variant, batches)
        seconds, peak = seconds_of(times[variant.key]), peaks.get(variant.key)
        line |= {
            "positions": statistics.mean(variant.positions(rows) for rows in mine),
            "seconds": seconds,
            "examples_per_second": statistics.mean(map(len, mine)) / seconds,
            "tokens_per_second": tokens_of(mine) / len(mine) / seconds,
            "peak_bytes": peak,
            "all_seconds": times[variant.key],
        }
        first = found[0] if found else line
        line["times_first"] = _ratio(seconds, first.get("seconds"))
        line["peak_times_first"] = _ratio(peak, first.get("peak_bytes"))
        found.append(line)
    return found


def _ratio(value: float | None, base: float | None) -> float | None:
    """None where either was not measured."""
    return value / base if value is not None and base else None


def tokens_of(batches: Batches) -> int:
    """Real tokens: no prompt, no padding."""
    return sum(len(row.tokens) for rows in batches for row in rows)


def compare(
    source: Source,
    variants: Sequence[Variant],
    *,
    batches: Batches,
    classes: int,
    repeats: int,
    say: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Time by turns in this process, then the memory of each variant in one of its own."""
    plain = source.plain() if any(v.method == "peft" for v in variants) else None
    sides = {v.key: source.side(v, classes=classes, plain=plain) for v in variants}
    say(f"timing {len(variants)} variants, {repeats} times {len(batches)} batches; {load_line()}")
    times, failed = take_turns(sides, batches, repeats=repeats)
    del sides, plain
    gc.collect()
    peaks = {}
    for variant in variants:
        if variant.key not in failed:
            say(f"memory: {variant.name}; {load_line()}")
            peaks[variant.key] = peak_alone(source, variant, batches=batches, classes=classes)
    return results(variants, batches, times=times, peaks=peaks, failed=failed)


def machine() -> dict[str, Any]:
    """What the numbers belong to."""
    import transformers

    found: dict[str, Any] = {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "load": os.getloadavg(),
    }
    try:
        import peft

        found["peft"] = peft.__version__
    except ImportError:
        found["peft"] = None
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def load_line() -> str:
    """The machine's load, which our own threads are part of."""
    return "load {:.2f}, {:.2f}, {:.2f}".format(*os.getloadavg())
