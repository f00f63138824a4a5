"""Examples -> token ids. Owns truncation; knows no model and no batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from accept_llm.data.token_cache import Rows, cached_rows
from accept_llm.errors import RecipeError
from accept_llm.recipe.task import TaskSpec
from accept_llm.tasks.base import Example, Label, Task

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


class Encoder:
    """Formats and tokenises examples, at most `max_length` tokens each.

    An example that is too long loses tokens from its values only, the longest value first,
    so that a second text is never cut away and the leads and the question always stay. Values
    that the task keeps (the question of a QA task) are cut only where nothing else is left.
    `answer_of` gives the tokens to say for a label; without it, there are none. `cache` is a
    folder that remembers long data sets, and the tokenizer's hash. `dropped_end` is a token that
    some tokenizers put after a text and that must not stand there: a causal model goes on with it.
    """

    def __init__(
        self,
        tokenizer: Any,
        task: Task,
        *,
        spec: TaskSpec,
        answer_of: Callable[[Label], tuple[int, ...]] | None = None,
        cache: tuple[Path, str] | None = None,
        dropped_end: int | None = None,
    ):
        self.tokenizer, self.task, self.max_length = tokenizer, task, spec.max_length
        asks = task.asks(spec.cue)
        self.question = f" {asks}" if asks else ""
        self.answer_of, self.cache, self.dropped_end = answer_of, cache, dropped_end
        # MultiRC asks some sixty times about one paragraph.
        self._ends = lru_cache(maxsize=1000)(self._find_ends)
        self._frame = lru_cache(maxsize=1000)(self._count_frame)

    def __call__(self, examples: Sequence[Example]) -> list[Encoded]:
        """The encoded examples, in their order."""
        if self.cache is None:
            rows = self._rows(examples)
        else:
            folder, tokenizer = self.cache
            settings = (
                *(tokenizer, self.max_length, self.question),
                *(self.task.kept, self.dropped_end),
            )
            rows = cached_rows(
                folder, settings, examples=examples, make=lambda: self._rows(examples)
            )
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
            ids = map(self._without_end, self.tokenizer(texts)["input_ids"])
            found += [self._fit(e, tokens) for e, tokens in zip(part, ids, strict=True)]
        return found

    def _fit(self, example: Example, tokens: list[int]) -> tuple[list[int], bool]:
        """Tokens that are few enough, and whether the answer went with the others."""
        if len(tokens) <= self.max_length:
            return tokens, False
        kept, tokens = self._truncate_values(example)
        return tokens, is_lost(example.label, [value for _, value in example.parts], kept=kept)

    def text(self, values: Sequence[str], example: Example) -> str:
        leads = (lead for lead, _ in example.parts)
        return "".join(a + b for a, b in zip(leads, values, strict=True)) + self.question

    def _tokens(self, values: Sequence[str], example: Example) -> list[int]:
        return self._without_end(self.tokenizer(self.text(values, example))["input_ids"])

    def _without_end(self, tokens: list[int]) -> list[int]:
        return tokens[:-1] if tokens and tokens[-1] == self.dropped_end else tokens

    def _truncate_values(self, example: Example) -> tuple[list[str], list[int]]:
        """The values that fit, and the tokens of the whole."""
        values = [value for _, value in example.parts]
        ends = [self._ends(value) for value in values]
        counts = [len(e) for e in ends]
        room = self.max_length - self._frame(tuple(lead for lead, _ in example.parts))
        # Joined tokens may differ by a few from the sum of the parts: shrink until it fits.
        while room >= len(values):
            keep = self._shares(counts, room)
            kept = [truncate(v, e, keep=k) for v, e, k in zip(values, ends, keep, strict=True)]
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
        return len(self._without_end(self.tokenizer("".join(leads) + self.question)["input_ids"]))

    def _find_ends(self, text: str) -> list[int]:
        """The character at which each token of `text` ends."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return [end for _, end in encoded["offset_mapping"]]


def truncate(text: str, ends: Sequence[int], *, keep: int) -> str:
    """The beginning of `text` that the first `keep` of its tokens cover."""
    if len(ends) <= keep:
        return text
    end = ends[keep - 1] if keep else 0
    if ends[keep] == end:  # a letter of several tokens stays out when its last token does
        end -= 1
    return text[: max(end, 0)].rstrip()


def is_lost(label: Label, values: Sequence[str], *, kept: Sequence[str]) -> bool:
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
        excess = min(sum(keep) - room, len(tied) * (top - max(below, 1)))
        for place, i in enumerate(tied):
            keep[i] -= excess // len(tied) + (place < excess % len(tied))
    return keep
