"""Scoring: predictions of a backbone on encoded rows, over all ranks, and their metrics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from accept_llm.backbones.base import Backbone, BackboneError
from accept_llm.data.batches import collate
from accept_llm.data.encoding import Encoded
from accept_llm.engines.base import Engine
from accept_llm.heads import Head
from accept_llm.methods.base import Method
from accept_llm.tasks.base import Task, read_score
from accept_llm.tasks.metrics import measure


@dataclass(frozen=True)
class Model:
    """What predicts: a frozen backbone with what was trained, the method and the head."""

    engine: Engine
    backbone: Backbone
    method: Method
    head: Head
    tokenizer: Any = None
    """Reads what the model writes; other heads do not need it."""


@dataclass(frozen=True)
class Prediction:
    """One row's outcome. `scores`: one for each class, or the one predicted score; empty where
    the model has written `text`. `loss` is the sum of `targets` terms."""

    id: str
    scores: tuple[float, ...]
    loss: float
    targets: int = 1
    text: str | None = None

    @property
    def label(self) -> int:
        """The class with the largest score."""
        return max(range(len(self.scores)), key=self.scores.__getitem__)

    @property
    def probabilities(self) -> list[float]:
        return torch.tensor(self.scores).softmax(0).tolist()


@torch.no_grad()
def predict(model: Model, rows: Sequence[Encoded], *, batch_size: int) -> list[Prediction]:
    """A prediction for each row, in the order of the rows, on every rank.

    Rows are sorted by length, so that batches have little padding, and whole batches are dealt
    to the ranks: what is in a batch does not depend on how many ranks there are. Each rank runs
    the same number of batches: a rank that has no more repeats the first, and drops it.
    """
    engine = model.engine
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].tokens))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    rounds = -(-len(batches) // engine.world_size)
    composed = model.method.compose()
    done: list[tuple[int, Prediction]] = []
    for number in range(engine.rank, rounds * engine.world_size, engine.world_size):
        spare = number >= len(batches)
        part = batches[0 if spare else number]
        found = _predict_batch(model, [rows[i] for i in part], composed=composed)
        done += [] if spare else zip(part, found, strict=True)
    return [prediction for _, prediction in sorted(engine.gather(done), key=lambda p: p[0])]


def _predict_batch(model: Model, rows: Sequence[Encoded], *, composed: Any) -> list[Prediction]:
    batch = collate(rows).to(model.engine.device)
    outcome = model.head.outcome(model.backbone, batch, prompt=composed)
    scores: list[list[float]] = [[] for _ in rows]
    texts: list[str | None] = [None for _ in rows]
    if outcome.scores is not None:
        scores = outcome.scores.reshape(len(rows), -1).tolist()
    if outcome.generated is not None:
        texts = model.tokenizer.batch_decode(outcome.generated, skip_special_tokens=True)
    return [
        Prediction(row.id, tuple(values), loss, model.head.targets(row), text and text.strip())
        for row, values, loss, text in zip(
            rows, scores, outcome.losses.tolist(), texts, strict=True
        )
    ]


def check_finite(predictions: Sequence[Prediction], *, losses: bool) -> None:
    """BackboneError for the first row whose scores, or loss if it is read, are no numbers."""
    for prediction in predictions:
        values = (*prediction.scores, prediction.loss) if losses else prediction.scores
        if not all(map(math.isfinite, values)):
            got = f"row {prediction.id}: the scores are {list(prediction.scores)[:8]}"
            got += f" and the loss {prediction.loss}" if losses else ""
            todo = "the model or the adapter overflows, or is damaged; model.dtype=fp32 holds more"
            raise BackboneError(f"{got}; allowed: finite numbers ({todo})")


def score(
    task: Task, rows: Sequence[Encoded], *, predictions: Sequence[Prediction]
) -> dict[str, float]:
    """The task's metrics by name, the main one first, and the mean loss."""
    labels = [row.label for row in rows]
    guesses = [answer(task, p) for p in predictions]
    classes = len(task.labels)
    values = {
        name: measure(name, labels, predictions=guesses, classes=classes)
        for name in (task.metric, *task.extra_metrics)
    }
    targets = sum(p.targets for p in predictions)
    return {**values, "loss": sum(p.loss for p in predictions) / targets}


def answer(task: Task, prediction: Prediction) -> int | float | str:
    """A class index, a score or a text."""
    if task.is_text:
        return prediction.text or ""
    if not task.is_score:
        return prediction.label
    return prediction.scores[0] if prediction.text is None else read_score(prediction.text)


def as_json(task: Task, prediction: Prediction) -> dict[str, Any]:
    """A line for `accept-llm predict`: id and answer, score, or label and probabilities."""
    if task.is_text or task.is_score:
        name = "answer" if task.is_text else "score"
        return {"id": prediction.id, name: answer(task, prediction)}
    probabilities = dict(zip(task.labels, prediction.probabilities, strict=True))
    label = task.labels[prediction.label]
    return {"id": prediction.id, "label": label, "probabilities": probabilities}
