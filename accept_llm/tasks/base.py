"""What a task is: its columns, its labels and the text form of a row.

It knows nothing of files, models or tokenisers; `data.py` brings the rows.
"""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accept_llm.recipe_errors import refusal

Record = Mapping[str, Any]
Parts = tuple[tuple[str, str], ...]

SCORES = (0.0, 5.0)  # of STS-B, the only task with a score


@dataclass(frozen=True)
class Example:
    """One row, ready for a tokeniser."""

    id: str
    """`<split>:<row>`: the file's split, before any cutting, and its row, from 0."""
    parts: Parts
    """(lead, value) pairs: a lead is never cut, a value may be truncated."""
    label: int | float
    """A class index, or a score."""


def listing(names: Sequence[str]) -> str:
    """The names in a line, the first 20 of many."""
    more = f", ... ({len(names)} in all)" if len(names) > 20 else ""
    return ", ".join(names[:20]) + more


def text_parts(task: "Task", record: Record) -> Parts:
    """`<task> <column>: <value>`, a pair for each column, as in T5 and DePT.

    Space around a value is dropped: SST-2 ends every sentence with one, a user's text does not.
    Raises ValueError where a value is not text, or where all are empty.
    """
    values = []
    for column in task.columns:
        value = record.get(column)
        if not isinstance(value, str):
            raise ValueError(f"{column}: got {reprlib.repr(value)}; allowed: text")
        values.append(value.strip())
    if not any(values):
        raise ValueError(f"{' and '.join(task.columns)}: got no text; allowed: some text")
    starts = [f"{task.name} ", *[" "] * (len(values) - 1)]
    leads = [f"{start}{column}: " for start, column in zip(starts, task.columns, strict=True)]
    return tuple(zip(leads, values, strict=True))


@dataclass(frozen=True)
class Task:
    """A task is data: what to read, how to say it, how to score it."""

    name: str
    labels: tuple[str, ...]
    """Empty where the label is a score."""
    words: tuple[str, ...]
    """One plain word a label for a causal LM to say; no leading space, first tokens differ."""
    question: str
    """Ends the text (after a space) where task.cue is on, so that the last token asks."""
    metric: str
    """A key of METRICS."""
    columns: tuple[str, ...]
    label_column: str
    hub: tuple[str, str | None] | None
    """Repository and configuration on the Hub; None where the rows are local."""
    small: bool
    """True halves the validation split into validation and test; False takes validation
    rows out of the training split and tests on the official validation split."""
    row: Callable[["Task", Record], Parts] = text_parts
    """The text form of a row."""

    @property
    def is_score(self) -> bool:
        return not self.labels

    def parts(self, record: Record) -> Parts:
        """The text of a row, labelled or not; ValueError names the column that has none."""
        return self.row(self, record)

    def label(self, value: Any) -> int | float:
        """The class index or score that `value` stands for; ValueError says what is allowed."""
        try:
            return _score(value) if self.is_score else _class_index(value, self.labels)
        except ValueError as error:
            raise ValueError(f"{self.label_column}: {error}") from None

    def example(self, id: str, record: Record) -> Example:
        """A labelled row; ValueError as in `parts` and `label`."""
        return Example(id, self.parts(record), self.label(record.get(self.label_column)))


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _hidden(number: float | None) -> str:
    return " (-1 marks hidden labels, this split cannot be used)" if number == -1 else ""


def _score(value: Any) -> float:
    low, high = SCORES
    number = _number(value)
    if number is None or isinstance(value, bool) or not low <= number <= high:
        hint = _hidden(number)
        raise ValueError(refusal(value, (), f"a number from {low:g} to {high:g}{hint}"))
    return number


def _class_index(value: Any, labels: tuple[str, ...]) -> int:
    """A label by its name, or by its index where no label reads as a number itself."""
    value = value.item() if hasattr(value, "item") else value  # numpy
    number = _number(value)
    whole = int(number) if number is not None and number.is_integer() else None
    spellings = [] if value is None else [str(value)]
    if isinstance(value, bool):
        spellings.append(str(value).lower())
    if whole is not None:
        spellings.append(str(whole))
    for name in spellings:
        if name in labels:
            return labels.index(name)
    by_name_only = any(_number(name) is not None for name in labels)
    if not by_name_only and whole is not None and 0 <= whole < len(labels):
        return whole
    numbers = "" if by_name_only else f", or 0 to {len(labels) - 1}"
    raise ValueError(refusal(value, labels, f"{listing(labels)}{numbers}{_hidden(number)}"))
