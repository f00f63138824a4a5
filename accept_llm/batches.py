"""Examples -> token ids -> batches. Owns truncation and which example is in which batch;
knows no layout (padding or packing is the backbone's business) and no model.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from accept_llm.recipe import TaskSpec, Train
from accept_llm.recipe_errors import RecipeError
from accept_llm.tasks import Example, Task
from accept_llm.tasks.base import Label
from accept_llm.token_cache import Rows, remembered

IGNORED = -100  # pads answers, as everywhere in transformers
CHUNK = 1000  # texts in one call of the tokenizer


@dataclass(frozen=True)
class Encoded:
    """One example as token ids, special tokens included."""

    id: str
    tokens: tuple[int, ...]
    label: Label
    answer: tuple[int, ...] = ()
    """What the model should say, with its end-of-text token; empty where a head needs no text."""
    lost: bool = False
    """The answer stood in the text, and truncation has cut it away."""


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


class Encoder:
    """Formats and tokenises examples, at most `max_length` tokens each.

    An example that is too long loses tokens from its values only, the longest value first,
    so that a second text is never cut away and the leads and the question always stay. Values
    that the task keeps (the question of a QA task) are cut only where nothing else is left.
    `answer_of` gives the tokens to say for a label; without it, there are none. `cache` is a
    folder that remembers long data sets, and the tokenizer's hash.
    """

    def __init__(
        self,
        tokenizer: Any,
        task: Task,
        spec: TaskSpec,
        *,
        answer_of: Callable[[Label], tuple[int, ...]] | None = None,
        cache: tuple[Path, str] | None = None,
    ):
        self.tokenizer, self.task, self.max_length = tokenizer, task, spec.max_length
        asks = task.asks(spec.cue)
        self.question = f" {asks}" if asks else ""
        self.answer_of, self.cache = answer_of, cache
        # MultiRC asks some sixty times about one paragraph.
        self._ends = lru_cache(maxsize=1000)(self._find_ends)
        self._frame = lru_cache(maxsize=1000)(self._count_frame)

    def __call__(self, examples: Sequence[Example]) -> list[Encoded]:
        """In the order of the examples."""
        if self.cache is None:
            rows = self._rows(examples)
        else:
            folder, tokenizer = self.cache
            settings = (tokenizer, self.max_length, self.question, self.task.kept)
            rows = remembered(folder, settings, examples, lambda: self._rows(examples))
        return [
            Encoded(
                id=example.id,
                tokens=tuple(tokens),
                label=example.label,
                answer=self.answer_of(example.label) if self.answer_of else (),
                lost=lost,
            )
            for example, (tokens, lost) in zip(examples, rows, strict=True)
        ]

    def _rows(self, examples: Sequence[Example]) -> Rows:
        found: Rows = []
        for start in range(0, len(examples), CHUNK):
            part = examples[start : start + CHUNK]
            texts = [self.text([value for _, value in e.parts], e) for e in part]
            ids = self.tokenizer(texts)["input_ids"]
            found += [self._fitted(e, tokens) for e, tokens in zip(part, ids, strict=True)]
        return found

    def _fitted(self, example: Example, tokens: list[int]) -> tuple[list[int], bool]:
        """Tokens that are few enough, and whether the answer went with the others."""
        if len(tokens) <= self.max_length:
            return tokens, False
        kept, tokens = self._truncated(example)
        return tokens, is_lost(example.label, [value for _, value in example.parts], kept)

    def text(self, values: Sequence[str], example: Example) -> str:
        leads = (lead for lead, _ in example.parts)
        return "".join(a + b for a, b in zip(leads, values, strict=True)) + self.question

    def _tokens(self, values: Sequence[str], example: Example) -> list[int]:
        return self.tokenizer(self.text(values, example))["input_ids"]

    def _truncated(self, example: Example) -> tuple[list[str], list[int]]:
        """The values that fit, and the tokens of the whole."""
        values = [value for _, value in example.parts]
        ends = [self._ends(value) for value in values]
        counts = [len(e) for e in ends]
        room = self.max_length - self._frame(tuple(lead for lead, _ in example.parts))
        # Joined tokens may differ by a few from the sum of the parts: shrink until it fits.
        while room >= len(values):
            keep = self._shares(counts, room)
            kept = [cut(v, e, k) for v, e, k in zip(values, ends, keep, strict=True)]
            if any(v and not k for v, k in zip(values, kept, strict=True)):
                break  # not even the first letter fits
            tokens = self._tokens(kept, example)
            if len(tokens) <= self.max_length:
                return kept, tokens
            room -= len(tokens) - self.max_length
        raise RecipeError(
            [
                f"task.max_length: got {self.max_length}; allowed: enough for the text form of "
                f"example {example.id} and a token of each text"
            ]
        )

    def _shares(self, counts: Sequence[int], room: int) -> list[int]:
        """Tokens that each value may keep; the task's kept ones whole where that leaves room."""
        whole = [n if kept else 0 for n, kept in zip(counts, self.task.kept, strict=True)]
        rest = [n - w for n, w in zip(counts, whole, strict=True)]
        if room - sum(whole) < sum(n > 0 for n in rest):
            return share(counts, room)
        return [w + n for w, n in zip(whole, share(rest, room - sum(whole)), strict=True)]

    def _count_frame(self, leads: tuple[str, ...]) -> int:
        """Tokens of the text form without its values."""
        return len(self.tokenizer("".join(leads) + self.question)["input_ids"])

    def _find_ends(self, text: str) -> list[int]:
        """Where each token of `text` ends, in characters."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return [end for _, end in encoded["offset_mapping"]]


def cut(text: str, ends: Sequence[int], keep: int) -> str:
    """The beginning of `text` that the first `keep` of its tokens cover."""
    if len(ends) <= keep:
        return text
    end = ends[keep - 1] if keep else 0
    if ends[keep] == end:  # a letter of several tokens stays out when its last token does
        end -= 1
    return text[: max(end, 0)].rstrip()


def is_lost(label: Label, values: Sequence[str], kept: Sequence[str]) -> bool:
    """Whether a gold answer stands in the values, and none in what is kept of them."""
    golds = label if isinstance(label, tuple) else ()

    def found(texts: Sequence[str]) -> bool:
        return any(gold.lower() in text.lower() for gold in golds for text in texts)

    return found(values) and not found(kept)


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
    rows = _drawn(len(lengths), start=window * size, size=size, seed=seed)
    if bucket == 1:
        return rows
    rows.sort(key=lambda i: lengths[i])
    order = torch.randperm(bucket, generator=_generator(seed, window))
    start = int(order[place]) * batch_size
    return rows[start : start + batch_size]


def _generator(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + number)


@lru_cache(maxsize=2)  # a step needs one epoch's, or two
def _epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=_generator(seed, epoch))


def _drawn(count: int, *, start: int, size: int, seed: int) -> list[int]:
    """`size` rows of the endless order of epochs, from place `start`."""
    rows: list[int] = []
    while len(rows) < size:
        epoch, offset = divmod(start + len(rows), count)
        order = _epoch_order(count, seed, epoch)
        rows += order[offset : offset + size - len(rows)].tolist()
    return rows


class Draw:
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
                self._epochs.append(self._cut(epoch))
            if step < before + len(self._epochs[epoch]):
                return epoch, before
            before += len(self._epochs[epoch])
            epoch += 1

    def _cut(self, epoch: int) -> list[list[int]]:
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
            batches += cut_by_cost(rows, self.lengths, limit)
        drawn = torch.randperm(len(batches), generator=generator).tolist()
        return [batches[i] for i in drawn]


def cut_by_cost(rows: Sequence[int], costs: Sequence[int], limit: int) -> list[list[int]]:
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
