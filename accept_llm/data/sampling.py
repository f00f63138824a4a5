"""Which rows are in the batch of a step."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from accept_llm.recipe.train import Train


def batch_rows(
    lengths: Sequence[int], *, step: int, batch_size: int, seed: int, bucket: int = 1
) -> list[int]:
    """The rows of the global batch of a step: a function of the step alone, so that a resumed
    run and any number of ranks see the same batches.

    Epochs are seeded permutations laid end to end; each epoch has every row once, and a batch
    may reach over the end of one into the next. `bucket` batches at a time are sorted by the
    rows' `lengths`, cut, and taken in a drawn order.
    """
    window, place = divmod(step, bucket)
    size = bucket * batch_size
    rows = _draw_rows(len(lengths), start=window * size, size=size, seed=seed)
    if bucket == 1:
        return rows
    rows.sort(key=lambda i: lengths[i])
    order = torch.randperm(bucket, generator=_generator(seed, window))
    start = int(order[place]) * batch_size
    return rows[start : start + batch_size]


def _generator(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + number)


@lru_cache(maxsize=2)  # a step needs one epoch's, or two
def _epoch_order(count: int, seed: int, *, epoch: int) -> Tensor:
    return torch.randperm(count, generator=_generator(seed, epoch))


def _draw_rows(count: int, *, start: int, size: int, seed: int) -> list[int]:
    """`size` rows of the endless order of epochs, from place `start`."""
    rows: list[int] = []
    while len(rows) < size:
        epoch, offset = divmod(start + len(rows), count)
        order = _epoch_order(count, seed, epoch=epoch)
        rows += order[offset : offset + size - len(rows)].tolist()
    return rows


class BatchSampler:
    """Which rows make up the batch of each step: `batch_size` of them, as `batch_rows` has it, or
    as many as have `tokens_per_batch` tokens.

    By tokens, an epoch is a seeded permutation in windows of about `bucket` batches; a window is
    sorted by length and cut where the next row would be too much, and the epoch's batches are
    taken in a drawn order. So each epoch has every row once, in batches of about one cost. A
    function of the step alone, as batch_rows is.
    """

    def __init__(self, lengths: Sequence[int], spec: Train):
        self.lengths, self.spec, self.bucket = lengths, spec, spec.bucket or 1
        self._epochs: list[list[list[int]]] = []  # of the batches by tokens

    def rows(self, step: int) -> list[int]:
        spec = self.spec
        if spec.tokens_per_batch is not None:
            epoch, before = self._epoch(step)
            return self._epochs[epoch][step - before]
        return batch_rows(
            self.lengths, step=step, batch_size=spec.size, seed=spec.seed, bucket=self.bucket
        )

    def epochs(self, steps: int) -> int:
        """How many epochs are complete after so many steps."""
        if self.spec.tokens_per_batch is None:
            return steps * self.spec.size // len(self.lengths)
        return self._epoch(steps)[0]

    def _epoch(self, step: int) -> tuple[int, int]:
        """The epoch that the step belongs to, and the steps before that epoch."""
        before, epoch = 0, 0
        while True:
            if epoch == len(self._epochs):
                self._epochs.append(self._split_epoch(epoch))
            if step < before + len(self._epochs[epoch]):
                return epoch, before
            before += len(self._epochs[epoch])
            epoch += 1

    def _split_epoch(self, epoch: int) -> list[list[int]]:
        generator = _generator(self.spec.seed, epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        limit = self.spec.tokens_per_batch or 0
        mean = sum(self.lengths) / len(self.lengths)
        window = max(1, round(self.bucket * limit / mean)) if self.bucket > 1 else len(order)
        batches: list[list[int]] = []
        for start in range(0, len(order), window):
            rows = order[start : start + window]
            if self.bucket > 1:
                rows.sort(key=lambda i: self.lengths[i])
            batches += split_by_cost(rows, self.lengths, limit=limit)
        drawn = torch.randperm(len(batches), generator=generator).tolist()
        return [batches[i] for i in drawn]


def split_by_cost(rows: Sequence[int], costs: Sequence[int], *, limit: int) -> list[list[int]]:
    """Rows in their order, cut before each one that would bring a part above `limit`."""
    parts: list[list[int]] = []
    cost = limit
    for row in rows:
        if not parts or cost + costs[row] > limit:
            parts.append([])
            cost = 0
        parts[-1].append(row)
        cost += costs[row]
    return parts
