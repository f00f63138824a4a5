"""Batches ahead of the device: while one step computes, a thread makes the batches of the next and
brings them to the device. It knows no model; what a step holds is a function of the step alone.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from accept_llm.data.batches import Batch, micro_batches
from accept_llm.data.encoding import Encoded
from accept_llm.data.sampling import BatchSampler
from accept_llm.recipe.train import Train


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch on the device, the weight of each example (B,), and how many positions are
    computed for how many tokens."""

    batch: Batch
    weights: Tensor
    tokens: int
    positions: int


@dataclass(frozen=True)
class StepBatches:
    """All rows of a step's global batch, this rank's parts of it, and the complete epochs after."""

    rows: list[Encoded]
    parts: list[MicroBatch]
    epochs: int


class Prefetcher:
    """Gives the steps of a run; `positions` counts those that a backbone computes for a batch."""

    def __init__(
        self,
        rows: Sequence[Encoded],
        spec: Train,
        *,
        ranks: tuple[int, int],
        device: torch.device,
        positions: Callable[[Batch], int],
    ):
        self.rows, self.spec, self.ranks, self.device = rows, spec, ranks, device
        self.positions = positions
        # Only the thread uses it once it has started: it remembers epochs.
        self.sampler = BatchSampler([len(row.tokens) for row in rows], spec)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._next: tuple[int, Future[StepBatches]] | None = None

    def step(self, number: int) -> StepBatches:
        """What step `number` trains on; the one after it is begun."""
        if self._next is None or self._next[0] != number:
            self._next = self._submit(number)
        found = self._next[1].result()
        if number + 1 < self.spec.steps:
            self._next = self._submit(number + 1)
        return found

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _submit(self, number: int) -> tuple[int, Future[StepBatches]]:
        return number, self._thread.submit(self._make, number)

    def _make(self, number: int) -> StepBatches:
        rows = [self.rows[i] for i in self.sampler.rows(number)]
        rank, world_size = self.ranks
        parts = [
            MicroBatch(
                batch.to(self.device),
                weights.to(self.device),
                tokens=len(batch.tokens) if weights.any() else 0,
                positions=self.positions(batch) if weights.any() else 0,
            )
            for batch, weights in micro_batches(
                rows,
                rank=rank,
                world_size=world_size,
                micro_batch_size=self.spec.micro_batch_size,
            )
        ]
        return StepBatches(rows, parts, self.sampler.epochs(number + 1))
