"""Pictures and prose out of a finished run: curves.png and the model card."""

import io
import logging
from pathlib import Path

from accept_llm.runs.log import read_metrics
from accept_llm.runs.result import Result
from accept_llm.storage import atomic_file


def plot_curves(folder: Path, *, metric: str) -> Path:
    """Training loss and validation score over steps, from metrics.jsonl, as curves.png."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # its advice about its cache
    from matplotlib.figure import Figure

    lines = read_metrics(folder / "metrics.jsonl")
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    scores = [(line["step"], line["validation"][metric]) for line in lines if "validation" in line]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, points, label in ((left, losses, "training loss"), (right, scores, metric)):
        axes.plot(*zip(*points, strict=True), marker="o" if len(points) < 30 else None, ms=3)
        axes.set(xlabel="step", ylabel=label)
        axes.grid(alpha=0.3)
    right.set_title("validation")
    figure.suptitle(folder.name)
    path = folder / "curves.png"
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format="png")
    with atomic_file(path) as file:
        file.write(picture.getbuffer())
    return path


def model_card(result: Result) -> str:
    """README.md of a run folder."""
    scores = "\n".join(
        f"| {name} | " + " | ".join(f"{value:.4f}" for value in values.values()) + " |"
        for name, values in (("validation", result.validation), ("test", result.test))
    )
    names = " | ".join(result.test)
    groups = ", ".join(f"{k} {v:,}" for k, v in result.trainable.items() if k != "total")
    return f"""# {result.name}

An adapter for `{result.model}` (frozen), trained with accept_llm on
`{result.task}`: {result.trainable["total"]:,} trained parameters
({groups}).
The best of {result.steps} steps was step {result.best_step}.

| split | {names} |
|---|{"---|" * len(result.test)}
{scores}

`prompt/` is the adapter, `recipe.yaml` the resolved recipe, `metrics.jsonl` every logged step,
`result.json` everything measured.

    accept-llm evaluate {result.folder}
    echo "some text" | accept-llm predict {result.folder}
"""
