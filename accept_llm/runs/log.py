"""What a run leaves behind while and after it runs: metrics.jsonl, progress for the eye and
TensorBoard events.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from accept_llm.errors import Notify, RecipeError
from accept_llm.recipe.train import Train
from accept_llm.runs.events import EventFile
from accept_llm.storage import append_line, write_text

LEAST_PADDING = 0.001  # that a user is told of


class RunLog:
    """metrics.jsonl, and lines for `notify`, on rank 0 only; with `bar`, a progress bar where the
    output is a terminal.

    A step's line has its own loss, not a mean; `seconds` is the training time so far.
    """

    def __init__(
        self, folder: Path, spec: Train, *, writes: bool, notify: Notify, bar: bool = False
    ):
        self.path = folder / "metrics.jsonl"
        self.steps, self.log_every, self.writes = spec.steps, spec.log_every, writes
        self.notify = notify
        self.seconds = 0.0
        self._score = ""
        self._said = -self.log_every
        self._events = EventFile(folder) if spec.tensorboard and writes else None
        self._console = Console() if bar and writes else None
        self._bar: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> "RunLog":
        if self._console and self._console.is_terminal:
            columns = (
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task("", total=self.steps)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            with suppress(OSError):  # a terminal that is gone
                self._bar.stop()

    def step(self, step: int, values: dict[str, float], *, batch_size: int) -> None:
        self.seconds += values["seconds"]
        rate = batch_size / values["seconds"]
        if self._bar:
            text = f"loss {values['loss']:.4f}{self._score} {rate:.1f} examples/s"
            self._bar.update(self._task, completed=step, description=text)
        if step % self.log_every and step != self.steps:
            return
        self._write({"step": step, **values, "examples_per_second": rate})
        if not self._bar:
            left = (self.steps - step) * self.seconds / step
            self.print_line(
                f"step {step}/{self.steps}  loss {values['loss']:.4f}{self._score}  "
                f"{rate:.1f} examples/s  {_clock(left)} left"
            )

    def epoch(self, step: int, epoch: int, *, padding: float) -> None:
        """The end of an epoch (from 0), or of the run; `padding`: its share of all positions."""
        self._write({"step": step, "epoch": epoch, "padding": padding})
        if padding >= LEAST_PADDING and step - self._said >= self.log_every:
            self._said = step
            self.print_line(
                f"step {step}/{self.steps}  epoch {epoch}: padding {padding:.1%} of the positions"
            )

    def evaluation(self, step: int, scores: dict[str, float], *, better: bool) -> None:
        self._write({"step": step, "validation": scores, "best": better})
        text = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
        self._score = f"  {text.split(',')[0]}"
        self.print_line(
            f"step {step}/{self.steps}  validation: {text}{'  (best)' if better else ''}"
        )

    def print_line(self, text: str) -> None:
        """A line for the user, on rank 0."""
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
        elif self.writes:
            self.notify(text)

    def _write(self, line: dict[str, Any]) -> None:
        if not self.writes:
            return
        append_line(self.path, json.dumps(line))
        if self._events:
            for name, value in {**line, **line.get("validation", {})}.items():
                if name not in ("step", "validation", "best"):
                    part = "validation" if "validation" in line else "train"
                    self._events.add(f"{part}/{name}", value, step=line["step"])

    def rewind(self, step: int) -> None:
        """Forgets lines after `step` (and a last one cut short by a kill)."""
        if self._events:
            self._events.purge(step + 1)
        if self.writes and self.path.exists():
            kept = [line for line in read_metrics(self.path) if line["step"] <= step]
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line that a kill cut short is left out."""
    lines = path.read_bytes().splitlines()
    found = []
    for number, text in enumerate(lines):
        try:
            line = json.loads(text)
        except (RecursionError, ValueError):
            line = None
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            found.append(line)
        elif number != len(lines) - 1:
            what = "is no JSON object with a step"
            raise RecipeError([f"{path}: line {number + 1} {what}; allowed: lines of a run"])
    return found


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
