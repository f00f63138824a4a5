"""Compares how groups of finished runs learned: losses of the last validation, the paired
difference to the first group, and a picture.

    python -m benchmarks.learning ACCEPT=runs/a1,runs/a2 PT=runs/p1,runs/p2 --picture curves.svg

The runs of the groups are pairs in the order given (the same seed, the same batches). The standard
error is that of the mean of the differences: their deviation (n - 1) over the root of their number.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from accept_llm.runs.log import read_metrics
from benchmarks.tables import table

SMOOTHED = 20
"""Steps whose training losses are averaged for the picture."""


@dataclass(frozen=True)
class Curve:
    """What one run's metrics.jsonl says: of each logged step, and of each validation."""

    steps: np.ndarray
    losses: np.ndarray
    validated: np.ndarray
    validation: np.ndarray
    score: float
    """The metric at the last validation."""


def read_curve(folder: Path) -> Curve:
    lines = read_metrics(folder / "metrics.jsonl")
    trained = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    scored = [(line["step"], line["validation"]) for line in lines if "validation" in line]
    score = next(value for name, value in scored[-1][1].items() if name != "loss")
    steps, losses = np.array(trained).T
    validated, validation = np.array([(step, scores["loss"]) for step, scores in scored]).T
    return Curve(steps, losses, validated, validation, score)


def difference(values: np.ndarray, first: np.ndarray) -> tuple[float, float | None]:
    """Mean and standard error of `values - first`, pair by pair; one pair has no error."""
    pairs = values - first
    if len(pairs) == 1:
        return float(pairs[0]), None
    return float(pairs.mean()), float(pairs.std(ddof=1) / len(pairs) ** 0.5)


def compare(groups: Mapping[str, Sequence[Curve]]) -> list[dict[str, Any]]:
    """A line for each group; SystemExit where a group has not as many runs as the first."""
    lines: list[dict[str, Any]] = []
    for name, curves in groups.items():
        losses, scores = np.array([(curve.validation[-1], curve.score) for curve in curves]).T
        first = lines[0] if lines else {"losses": losses, "scores": scores}
        if len(curves) != len(first["losses"]):
            allowed = f"{len(first['losses'])}, as in the first group"
            raise SystemExit(f"{name}: got {len(curves)} runs; allowed: {allowed}")
        lines.append(
            {"runs": name, "losses": losses, "loss": difference(losses, first["losses"])}
            | {"scores": scores, "score": difference(scores, first["scores"])}
        )
    return lines


def _each(values: np.ndarray, digits: int) -> str:
    return f"{values.mean():.{digits}f} ({', '.join(f'{v:.{digits}f}' for v in values)})"


def _with_error(found: tuple[float, float | None], digits: int) -> str:
    mean, error = found
    return f"{mean:+.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


COLUMNS = {
    "runs": lambda line: line["runs"],
    "loss, mean (each)": lambda line: _each(line["losses"], 4),
    "minus the first": lambda line: _with_error(line["loss"], 4),
    "score, mean (each)": lambda line: _each(100 * line["scores"], 1),
    "minus the first's": lambda line: _with_error(tuple(v and 100 * v for v in line["score"]), 2),
}


def draw(groups: Mapping[str, Sequence[Curve]], path: Path) -> None:
    """Training loss, averaged over runs and `SMOOTHED` steps, beside the validation loss."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, curves in groups.items():
        mean = np.mean([curve.losses for curve in curves], axis=0)
        window = min(SMOOTHED, len(mean))
        smooth = np.convolve(mean, np.full(window, 1 / window), mode="valid")
        left.plot(curves[0].steps[window - 1 :], smooth, label=name)
        validation = np.mean([curve.validation for curve in curves], axis=0)
        right.plot(curves[0].validated, validation, marker="o", ms=3, label=name)
    left.set(xlabel="step", ylabel=f"training loss, mean of {SMOOTHED} steps")
    right.set(xlabel="step", ylabel="validation loss")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    right.legend()
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning")
    parser.add_argument("groups", nargs="+", metavar="NAME=FOLDER[,FOLDER...]")
    parser.add_argument("--picture", type=Path, help="where to draw the curves (.svg, .png)")
    options = parser.parse_args(arguments)
    for group in options.groups:
        if "=" not in group:
            parser.error(f"got {group!r}; allowed: NAME=FOLDER[,FOLDER...]")
    named = dict(group.split("=", 1) for group in options.groups)
    groups = {n: [read_curve(Path(f)) for f in folders.split(",")] for n, folders in named.items()}
    print(table(COLUMNS, compare(groups)))
    if options.picture:
        draw(groups, options.picture)


if __name__ == "__main__":
    main()
