"""Token ids -> batches, and a rank's part of them. It knows no layout (padding or packing is the
backbone's business) and no model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from accept_llm.data.encoding import Encoded

IGNORED = -100  # pads answers, as everywhere in transformers


@dataclass(frozen=True)
class Batch:
    """B examples end to end, unpadded: `tokens` (N,), `lengths` (B,), `labels` (B,), and
    `answers` (B, a), padded with -100; a is 0 where a head needs no text."""

    ids: tuple[str, ...]
    tokens: Tensor
    lengths: Tensor
    labels: Tensor
    answers: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> "Batch":
        tensors = (self.tokens, self.lengths, self.labels, self.answers)
        return Batch(self.ids, *(tensor.to(device) for tensor in tensors))


def collate(rows: Sequence[Encoded]) -> Batch:
    """Rows -> a batch; class labels become int64, scores fp32, gold texts 0."""
    labels = torch.tensor([0 if isinstance(row.label, tuple) else row.label for row in rows])
    return Batch(
        ids=tuple(row.id for row in rows),
        tokens=torch.tensor([t for row in rows for t in row.tokens]),
        lengths=torch.tensor([len(row.tokens) for row in rows]),
        labels=labels if labels.dtype == torch.int64 else labels.float(),
        answers=pad_answers([row.answer for row in rows]),
    )


def pad_answers(answers: Sequence[Sequence[int]]) -> Tensor:
    """(R, a) token ids, padded on the right with -100."""
    rows = [torch.tensor(answer, dtype=torch.int64) for answer in answers]
    return pad_sequence(rows, batch_first=True, padding_value=IGNORED)


def micro_batches(
    rows: Sequence[Encoded], *, rank: int, world_size: int, micro_batch_size: int | None
) -> Iterator[tuple[Batch, Tensor]]:
    """Yields this rank's part of a global batch, as (batch, weight of each example (B,)).

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
