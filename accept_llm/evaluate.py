"""Scoring: predictions of a backbone on encoded rows, over all ranks, and their metrics."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from accept_llm.backbones import Backbone
from accept_llm.batches import Encoded, collate
from accept_llm.engines import Engine
from accept_llm.heads import LabelWords, LinearHead, example_losses
from accept_llm.prompts import Prompt
from accept_llm.tasks import METRICS, Task


@dataclass(frozen=True)
class Model:
    """What predicts: a frozen backbone with the trained prompt and head."""

    engine: Engine
    backbone: Backbone
    prompt: Prompt
    head: LinearHead | LabelWords


@dataclass(frozen=True)
class Prediction:
    """One row's outcome. `scores`: logits of the classes, or the one predicted score."""

    id: str
    scores: tuple[float, ...]
    loss: float

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

    Rows are sorted by length, so that batches have little padding, and dealt to the ranks.
    Each rank runs the same number of batches: a rank that has no more repeats its first.
    """
    engine = model.engine
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].tokens))
    mine = order[engine.rank :: engine.world_size]
    longest_share = -(-len(rows) // engine.world_size)
    composed = model.prompt.compose()
    done: list[tuple[int, Prediction]] = []
    for start in range(0, longest_share, batch_size):
        part = mine[start : start + batch_size]
        batch = collate([rows[i] for i in part or order[:1]]).to(engine.device)
        scores = model.head.scores(model.backbone(batch, composed, reads=model.head.reads))
        losses = example_losses(scores, batch.labels).tolist()
        values = scores.reshape(len(batch), -1).tolist()
        for i, value, loss in zip(part, values, losses, strict=False):
            done.append((i, Prediction(rows[i].id, tuple(value), loss)))
    return [prediction for _, prediction in sorted(engine.gather(done), key=lambda p: p[0])]


def score(
    task: Task, rows: Sequence[Encoded], predictions: Sequence[Prediction]
) -> dict[str, float]:
    """The task's metric under its name, and the mean loss."""
    labels = [row.label for row in rows]
    guesses = [p.scores[0] if task.is_score else p.label for p in predictions]
    value = METRICS[task.metric](labels, guesses)
    return {task.metric: value, "loss": sum(p.loss for p in predictions) / len(predictions)}
