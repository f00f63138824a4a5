"""The batches: real texts of a task, or drawn tokens of given lengths."""

import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from accept_llm.data.encoding import Encoded, Encoder
from accept_llm.data.sampling import batch_rows
from accept_llm.data.splits import load_splits
from accept_llm.recipe.task import BuiltinTask

Batches = list[list[Encoded]]


def tokenizer_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def real(task: str, folder: Path, *, size: int, count: int) -> tuple[Batches, int]:
    """`count` batches of `size` training examples, drawn as the trainer draws them, and how many
    classes the task has."""
    spec = BuiltinTask.model_validate({"kind": task, "max_length": 256})
    splits = load_splits(spec, seed=0)
    encode = Encoder(tokenizer_of(folder), splits.task, spec=spec)
    none = [0] * len(splits.train)  # lengths matter only where batches are bucketed
    drawn = [batch_rows(none, step=i, batch_size=size, seed=0) for i in range(count)]
    return [encode([splits.train[i] for i in rows]) for rows in drawn], len(splits.task.labels)


def drawn(lengths: Sequence[int], *, vocab_size: int, seed: int = 0) -> list[Encoded]:
    """Random tokens: the time of a step does not depend on what is written."""
    draw = random.Random(seed)
    return [
        Encoded(str(i), tuple(draw.choices(range(vocab_size), k=length)), i % 2)
        for i, length in enumerate(lengths)
    ]


def spread(count: int, longest: int) -> list[int]:
    """`count` lengths from half of `longest` to `longest`, in a drawn order."""
    lengths = [longest - i * (longest // 2) // max(1, count - 1) for i in range(count)]
    random.Random(0).shuffle(lengths)
    return lengths


def ordered(batches: Batches) -> Batches:
    """The same examples, sorted by length and cut again: batches with little padding."""
    rows: list[Any] = sorted((row for rows in batches for row in rows), key=lambda r: len(r.tokens))
    cuts = [sum(map(len, batches[:i])) for i in range(len(batches) + 1)]
    return [rows[a:b] for a, b in pairwise(cuts)]
