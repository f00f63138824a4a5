"""Examples -> token ids -> batches. Owns truncation and which example is in which batch;
knows no layout (padding or packing is the backbone's business) and no model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from accept_llm.recipe import TaskSpec
from accept_llm.recipe_errors import RecipeError
from accept_llm.tasks import Example, Task


@dataclass(frozen=True)
class Encoded:
    """One example as token ids, special tokens included."""

    id: str
    tokens: tuple[int, ...]
    label: int | float


@dataclass(frozen=True)
class Batch:
    """B examples end to end, unpadded: `tokens` (N,), `lengths` (B,), `labels` (B,)."""

    ids: tuple[str, ...]
    tokens: Tensor
    lengths: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> "Batch":
        return Batch(
            self.ids, self.tokens.to(device), self.lengths.to(device), self.labels.to(device)
        )


def collate(rows: Sequence[Encoded]) -> Batch:
    """Rows -> a batch; class labels become int64, scores fp32."""
    labels = torch.tensor([row.label for row in rows])
    return Batch(
        ids=tuple(row.id for row in rows),
        tokens=torch.tensor([t for row in rows for t in row.tokens]),
        lengths=torch.tensor([len(row.tokens) for row in rows]),
        labels=labels if labels.dtype == torch.int64 else labels.float(),
    )


class Encoder:
    """Formats and tokenises examples, at most `max_length` tokens each.

    An example that is too long loses tokens from its values only, the longest value first,
    so that a second text is never cut away and the leads and the question always stay.
    """

    def __init__(self, tokenizer: Any, task: Task, spec: TaskSpec):
        self.tokenizer, self.max_length = tokenizer, spec.max_length
        self.question = f" {task.question}" if spec.cue else ""

    def __call__(self, example: Example) -> Encoded:
        tokens = self._tokens([value for _, value in example.parts], example)
        if len(tokens) > self.max_length:
            tokens = self._truncated(example)
        return Encoded(id=example.id, tokens=tuple(tokens), label=example.label)

    def text(self, values: Sequence[str], example: Example) -> str:
        leads = (lead for lead, _ in example.parts)
        return "".join(a + b for a, b in zip(leads, values, strict=True)) + self.question

    def _tokens(self, values: Sequence[str], example: Example) -> list[int]:
        return self.tokenizer(self.text(values, example))["input_ids"]

    def _truncated(self, example: Example) -> list[int]:
        values = [value for _, value in example.parts]
        counts = [self._count(value) for value in values]
        room = self.max_length - len(self._tokens([""] * len(values), example))
        # Joined tokens may differ by a few from the sum of the parts: shrink until it fits.
        while room >= len(values):
            keep = share(counts, room)
            kept = [self._cut(v, k, c) for v, k, c in zip(values, keep, counts, strict=True)]
            if any(v and not k for v, k in zip(values, kept, strict=True)):
                break  # not even the first letter fits
            tokens = self._tokens(kept, example)
            if len(tokens) <= self.max_length:
                return tokens
            room -= len(tokens) - self.max_length
        raise RecipeError(
            [
                f"task.max_length: got {self.max_length}; allowed: enough for the text form of "
                f"example {example.id} and a token of each text"
            ]
        )

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _cut(self, text: str, keep: int, count: int) -> str:
        """The longest beginning of `text` with at most `keep` tokens, found by bisection."""
        if count <= keep:
            return text
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._count(text[:middle]) <= keep else (low, middle - 1)
        return text[:low].rstrip()


def share(counts: Sequence[int], room: int) -> list[int]:
    """Cuts the largest of `counts` down, until their sum is at most `room`; at least 1 each."""
    keep = list(counts)
    while sum(keep) > room:
        top = max(keep)
        below = max((k for k in keep if k < top), default=0)
        tied = [i for i, k in enumerate(keep) if k == top]
        cut = min(sum(keep) - room, len(tied) * (top - max(below, 1)))
        for place, i in enumerate(tied):
            keep[i] -= cut // len(tied) + (place < cut % len(tied))
    return keep


def batch_rows(count: int, *, step: int, batch_size: int, seed: int) -> list[int]:
    """The rows of the global batch of a step: a function of the step alone, so that a resumed
    run and any number of ranks see the same batches.

    Epochs are seeded permutations laid end to end; each epoch has every row once, and a batch
    may reach over the end of one into the next.
    """
    rows: list[int] = []
    start = step * batch_size
    while len(rows) < batch_size:
        epoch, offset = divmod(start + len(rows), count)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(count, generator=generator)
        rows += order[offset : offset + batch_size - len(rows)].tolist()
    return rows


def micro_batches(
    rows: Sequence[Encoded], *, rank: int, world_size: int, micro_batch_size: int | None
) -> Iterator[tuple[Batch, Tensor]]:
    """This rank's part of a global batch, as (batch, weight of each example (B,)).

    Every rank gets the same number of micro-batches, because each forward pass is a
    collective when weights are sharded. A rank without rows repeats one with weight 0.
    """
    share_of_rank = -(-len(rows) // world_size)
    size = min(micro_batch_size or share_of_rank, share_of_rank)
    mine = list(rows[rank::world_size])
    for start in range(0, share_of_rank, size):
        part = mine[start : start + size]
        weight = 1.0 if part else 0.0
        part = part or [rows[0]]
        yield collate(part), torch.full((len(part),), weight)
