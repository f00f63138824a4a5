"""How a step's time and memory grow with the batch, the input's length, the prompt's length and
the model's size: one axis at a time, on random Llamas and random tokens.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accept_llm.models.folder import ModelInfo
from benchmarks.measure import compare, load_line, machine
from benchmarks.sides import LENGTH, VARIANTS, Source
from benchmarks.tables import Columns, mib, save, table
from benchmarks.texts import drawn, spread

VOCABULARY = 512
# hidden, FFN, layers, heads, KV heads
SIZES = {
    "stories260k": (64, 172, 5, 8, 4),
    "stories15M": (288, 768, 6, 6, 6),
    "SmolLM2-135M": (576, 1536, 30, 9, 3),
}


@dataclasses.dataclass(frozen=True)
class Point:
    """What is measured; an axis changes one of them."""

    batch: int = 32
    longest: int = 64
    m: int = LENGTH
    size: str = "stories15M"


AXES: Mapping[str, Sequence[Any]] = {
    "batch": (8, 16, 32, 64),
    "longest": (32, 64, 128, 256),
    "m": (20, 60, 100),
    "size": tuple(SIZES),
}
KEYS = ("packed", "peft")


@contextmanager
def random_model(size: str) -> Iterator[ModelInfo]:
    """A random Llama of that shape, with a small vocabulary, in a folder that is removed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, ffn, layers, heads, kv = SIZES[size]
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
        files = tuple(sorted(folder.glob("*.safetensors")))
        yield ModelInfo(folder, "llama", hidden, 1024, VOCABULARY, layers, files)


def measured(point: Point, info: ModelInfo, *, dtype: str, repeats: int) -> list[dict[str, Any]]:
    """The results of both sides at a point."""
    rows = drawn(spread(point.batch, point.longest), vocab_size=VOCABULARY)
    chosen = [dataclasses.replace(v, m=point.m) for v in VARIANTS if v.key in KEYS]
    return compare(Source(info, dtype), chosen, batches=[rows], classes=2, repeats=repeats)


def one_axis(axis: str, values: Sequence[Any], *, dtype: str, repeats: int) -> list[dict[str, Any]]:
    """A line for each value: the point, and the results of both sides."""
    lines = []
    for value in values:
        point = dataclasses.replace(Point(), **{axis: value})
        print(f"{axis} = {value}; {load_line()}")
        with random_model(point.size) as info:
            found = measured(point, info, dtype=dtype, repeats=repeats)
        lines.append({"value": value, **{line["key"]: line for line in found}})
    return lines


def columns(axis: str) -> Columns:
    """Seconds and peak of both sides, and PEFT's in times ours."""

    def of(key: str, field: str) -> Callable[[Any], Any]:
        return lambda line: line[key].get(field)

    def peak(key: str) -> Callable[[Any], Any]:
        return lambda line: mib(line[key].get("peak_bytes"))

    return {
        axis: lambda line: line["value"],
        "positions": of("packed", "positions"),
        "packed, s": of("packed", "seconds"),
        "PEFT, s": of("peft", "seconds"),
        "times": of("peft", "times_first"),
        "packed, MiB": peak("packed"),
        "PEFT, MiB": peak("peft"),
        "times the peak": of("peft", "peak_times_first"),
    }


def scaling(
    dtype: str, *, repeats: int, out: Path, axes: Mapping[str, Sequence[Any]] = AXES
) -> None:
    """Measures and saves all axes."""
    found = {
        axis: one_axis(axis, values, dtype=dtype, repeats=repeats) for axis, values in axes.items()
    }
    start = dataclasses.asdict(Point())
    text = (
        f"## Scaling ({dtype}): packed against PEFT padded to the longest\n\n"
        f"Where an axis does not say otherwise: {start}; lengths from half of `longest` on. "
        f"Medians of {repeats}; {load_line()}.\n"
    )
    for axis, lines in found.items():
        text += f"\n{table(columns(axis), lines)}"
    save("scaling", {"start": start, "axes": found, "machine": machine()}, text=text, out=out)
