"""The prefetcher gives what the sampler says of each step, and has the next step ready."""

import time

import pytest
import torch

from accept_llm.data.batches import micro_batches
from accept_llm.data.encoding import Encoded
from accept_llm.data.loader import Prefetcher
from accept_llm.data.sampling import batch_rows
from accept_llm.recipe.train import Train

CPU = torch.device("cpu")
ROWS = [Encoded(str(i), tuple(range(1, 2 + i % 5)), i % 2) for i in range(11)]


def loader_of(*, ranks=(0, 1), positions=lambda batch: 7, **train) -> Prefetcher:
    spec = Train.model_validate({"steps": 6, "batch_size": 4, **train})
    return Prefetcher(ROWS, spec, ranks=ranks, device=CPU, positions=positions)


def direct(step: int, *, rank: int, world_size: int, micro: int | None):
    lengths = [len(row.tokens) for row in ROWS]
    rows = [ROWS[i] for i in batch_rows(lengths, step=step, batch_size=4, seed=42)]
    return rows, list(micro_batches(rows, rank=rank, world_size=world_size, micro_batch_size=micro))


@pytest.mark.parametrize(("rank", "world_size", "micro"), [(0, 1, None), (0, 1, 3), (1, 3, 1)])
def test_steps_are_those_of_the_batches(rank, world_size, micro):
    loader = loader_of(ranks=(rank, world_size), micro_batch_size=micro)
    for number in (0, 1, 2, 5, 4):  # in order, and after a resume
        step = loader.step(number)
        rows, parts = direct(number, rank=rank, world_size=world_size, micro=micro)
        assert step.rows == rows
        assert step.epochs == (number + 1) * 4 // len(ROWS)
        for part, (batch, weights) in zip(step.parts, parts, strict=True):
            assert part.batch.ids == batch.ids
            assert torch.equal(part.batch.tokens, batch.tokens)
            assert torch.equal(part.weights, weights)
            counted = (len(batch.tokens), 7) if weights.any() else (0, 0)
            assert (part.tokens, part.positions) == counted
    loader.close()


def test_a_rank_without_rows_counts_nothing():
    loader = loader_of(ranks=(2, 3), batch_size=2)
    (part,) = loader.step(0).parts
    assert part.weights.tolist() == [0.0]
    assert (part.tokens, part.positions) == (0, 0)
    loader.close()


def test_the_next_step_is_made_meanwhile_and_none_behind_the_last():
    made = []
    loader = loader_of(positions=lambda batch: made.append(batch.ids) or 1, steps=3)
    for number in range(3):
        ids = [row.id for row in loader.step(number).rows]
        assert list(made[number]) == ids
        wanted = min(number + 2, 3)
        deadline = time.monotonic() + 30
        while len(made) < wanted and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(made) == wanted
    loader.close()
    assert len(made) == 3


def test_what_goes_wrong_in_the_thread_is_raised():
    def fails(batch):
        raise ZeroDivisionError("in the thread")

    loader = loader_of(positions=fails)
    with pytest.raises(ZeroDivisionError, match="in the thread"):
        loader.step(0)
    loader.close()
