"""What tests of the trainer share."""

from accept_llm.adapter.card import BaseModelSection, Card, TaskSection
from accept_llm.training.state import Origin

CARD = Card(
    model=BaseModelSection(
        name="m", model_type="llama", hidden_size=64, vocab_size=90, dtype="fp32", tokenizer=""
    ),
    task=TaskSection(name="t", labels=[], metric="accuracy"),
    method={},
    head={},
)

ORIGIN = Origin(model={}, rows={})


class Log:
    """Keeps what a RunLog would write."""

    def __init__(self):
        self.steps, self.evaluations, self.epochs, self.seconds = [], [], [], 0.0

    def step(self, step, values, *, batch_size):
        self.steps.append(values)

    def epoch(self, step, epoch, padding):
        self.epochs.append((step, epoch, padding))

    def evaluation(self, step, scores, *, better):
        self.evaluations.append((step, better))

    def rewind(self, step):
        self.steps = self.steps[:step]
