"""Results as a Markdown table for people and as JSON for programs."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

Columns = Mapping[str, Callable[[Any], Any]]
"""Heading -> what a line of results has there."""

MIB = 2**20


def number(value: Any) -> str:
    """Three digits that count; a dash for what was not measured."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")
    return str(value)


def table(columns: Columns, lines: Sequence[Any]) -> str:
    rows = [[number(read(line)) for read in columns.values()] for line in lines]
    cells = [list(columns), ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells) + "\n"


def mib(value: int | None) -> float | None:
    return None if value is None else value / MIB


VARIANTS: Columns = {
    "variant": lambda line: line["variant"],
    "computes": lambda line: line["computes"],
    "positions": lambda line: line.get("positions", line.get("failed")),
    "seconds a step": lambda line: line.get("seconds"),
    "times the first": lambda line: line.get("times_first"),
    "examples/s": lambda line: line.get("examples_per_second"),
    "real tokens/s": lambda line: line.get("tokens_per_second"),
    "peak above the weights, MiB": lambda line: mib(line.get("peak_bytes")),
    "times the first's peak": lambda line: line.get("peak_times_first"),
}


def rate_lines(rate: Mapping[str, Any], share: Mapping[str, float]) -> str:
    """What the machine can do and what of it a step does, as sentences."""
    two = f"{number(rate['forward'] / 1e9)} forward, {number(rate['backward'] / 1e9)} backward"
    return (
        f"Matrix products of the linear layers' shapes at {rate['tokens']} tokens "
        f"({rate['dtype']}): {number(rate['both'] / 1e9)} "
        f"GFLOP/s ({two}). A packed step must do {number(share['flops'] / 1e9)} GFLOP and does "
        f"{number(share['per_second'] / 1e9)} GFLOP/s: {share['share']:.0%} of that rate.\n"
    )


def save(name: str, data: Mapping[str, Any], *, text: str, out: Path) -> None:
    """<out>/<name>-<time>.json and .md; prints the text and where it is."""
    out.mkdir(parents=True, exist_ok=True)
    stem = out / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    stem.with_suffix(".json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nwritten: {stem}.json and {stem}.md")
