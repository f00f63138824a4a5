"""What a task is: its columns, its labels and the text form of a row.

It knows nothing of files, models or tokenizers; data/sources.py brings the rows.
"""

import re
import reprlib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from accept_llm.errors import refusal

Record = Mapping[str, Any]
Parts = tuple[tuple[str, str], ...]
Label = int | float | tuple[str, ...]
"""A class index; a score; or all gold answers of a row, of which the first is trained on."""

AnswerKind = Literal["classes", "score", "text"]
SCORES = (0.0, 5.0)  # of STS-B, the only task with a score


@dataclass(frozen=True)
class Example:
    """One row, ready for a tokeniser."""

    id: str
    """`<split>:<row>`: the file's split, before any cutting, and its row, from 0."""
    parts: Parts
    """(lead, value) pairs: a lead is never cut, a value may be truncated."""
    label: Label

    def text(self, question: str) -> str:
        """All of it in a row, nothing truncated; `question` ends it, after a space."""
        asks = f" {question}" if question else ""
        return "".join(lead + value for lead, value in self.parts) + asks


def join_names(names: Sequence[str]) -> str:
    """The names in a line, the first 20 of many, and of a long one its beginning."""
    more = f", ... ({len(names)} in all)" if len(names) > 20 else ""
    return ", ".join(name if len(name) <= 80 else f"{name[:80]}..." for name in names[:20]) + more


def nfc(text: str) -> str:
    """The text with each accent and its letter as one character (Unicode's NFC), as names of labels
    and columns are compared: a Mac may write them as two."""
    return unicodedata.normalize("NFC", text)


def trim(text: str) -> str:
    """The text without space around it; nothing where no character of it can be seen, such as a
    zero-width space (Unicode's format characters)."""
    text = text.strip()
    seen = any(not c.isspace() and unicodedata.category(c) != "Cf" for c in text)
    return text if seen else ""


def text_of(record: Record, column: str) -> str:
    """The text of a column; ValueError where it has none, or one that UTF-8 cannot hold."""
    value = record.get(column)
    if not isinstance(value, str):
        raise ValueError(f"{column}: got {reprlib.repr(value)}; allowed: text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        what = f"half a character (a lone surrogate) at {error.start}"
        raise ValueError(f"{column}: got {value[:40]!a}, with {what}; allowed: text") from None
    return value


def text_parts(task: "Task", record: Record) -> Parts:
    """`<task> <column>: <value>`, a pair for each shown column, as in T5 and DePT.

    Space around a value is dropped: SST-2 ends every sentence with one, a user's text does not.
    Raises ValueError where a value is not text, or where all are empty.
    """
    values = [trim(text_of(record, column)) for column in task.shown]
    if not any(values):
        raise ValueError(f"{' and '.join(task.shown)}: got no text; allowed: some text")
    starts = [f"{task.name} ", *[" "] * (len(values) - 1)]
    leads = [f"{start}{column}: " for start, column in zip(starts, task.shown, strict=True)]
    return tuple(zip(leads, values, strict=True))


@dataclass(frozen=True)
class Task:
    """A task is data: what to read, how to say it, how to score it."""

    name: str
    labels: tuple[str, ...]
    """Empty where the label is a score or a text."""
    words: tuple[str, ...]
    """One plain word a label for a causal LM to say; no leading space, first tokens differ."""
    question: str
    """Ends the text (after a space) where task.cue is on, so that the last token asks."""
    metric: str
    """A key of METRICS; it selects the best step."""
    columns: tuple[str, ...]
    """What a row must have, beside its label."""
    label_column: str
    hub: tuple[str, str | None] | None
    """Repository and configuration on the Hub; None where the rows are local."""
    splits: Literal["small", "large", "given"]
    """small: the validation rows are halved into validation and test. large: some training rows are
    the validation set, and the validation rows the test set. given: all three are there."""
    max_length: int = 256
    """l of the paper: a recipe's task.max_length where it gives none."""
    format_row: Callable[["Task", Record], Parts] = text_parts
    """The text form of a row."""
    kind: AnswerKind = "classes"
    """What the label is: a class, a score from 0 to 5, or one or many gold answers."""
    extra_metrics: tuple[str, ...] = ()
    """Further keys of METRICS, reported beside `metric`."""
    keep: tuple[str, ...] = ()
    """Shown columns that truncation must not cut while others have something left."""
    marked: str = ""
    """The one column that is shown, where the others only say how; without it, all are shown."""
    hub_splits: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Our name of a split -> the Hub's, where they differ."""
    folders: tuple[str, ...] = ()
    """Further names of the task's local folder, looked for where <name>/ does not exist."""

    def asks(self, cue: bool | str) -> str:
        """What ends the text where a recipe has task.cue; "" for nothing."""
        if isinstance(cue, str):
            return cue
        return self.question if cue else ""

    @property
    def is_score(self) -> bool:
        return self.kind == "score"

    @property
    def is_text(self) -> bool:
        return self.kind == "text"

    @property
    def shown(self) -> tuple[str, ...]:
        """The columns of the parts of a row, in order."""
        return (self.marked,) if self.marked else self.columns

    @property
    def kept(self) -> tuple[bool, ...]:
        """Whether each part of a row, in order, is of a column in `keep`."""
        return tuple(column in self.keep for column in self.shown)

    def parts(self, record: Record) -> Parts:
        """The text of a row, labelled or not; ValueError names the column that has none."""
        return self.format_row(self, record)

    def label(self, value: Any) -> Label:
        """What `value` stands for; ValueError says what is allowed."""
        try:
            if self.is_text:
                return _answers(value)
            return _score(value) if self.is_score else _class_index(value, self.labels)
        except ValueError as error:
            raise ValueError(f"{self.label_column}: {error}") from None

    def example(self, id: str, record: Record) -> Example:
        """A labelled row; ValueError as in `parts` and `label`."""
        return Example(id, self.parts(record), self.label(record.get(self.label_column)))


def _number(value: Any) -> float | None:
    if isinstance(value, str | bytes) and "_" in str(value):  # 0_1 is a number to Python alone
        return None
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
        raise ValueError(refusal(value, (), allowed=f"a number from {low:g} to {high:g}{hint}"))
    return number


def _class_index(value: Any, labels: tuple[str, ...]) -> int:
    """A label by its name, or by its index where no label reads as a number itself."""
    value = value.item() if hasattr(value, "item") else value  # numpy
    number = _number(value)
    whole = int(number) if number is not None and number.is_integer() else None
    spellings = [] if value is None else [nfc(str(value))]
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
    raise ValueError(
        refusal(value, labels, allowed=f"{join_names(labels)}{numbers}{_hidden(number)}")
    )


def _answers(value: Any) -> tuple[str, ...]:
    """The distinct gold answers of a list of texts, or of SQuAD's {text: [...]}, in order.

    Space around an answer is dropped, and so is an answer that is nothing else.
    """
    texts = value.get("text") if isinstance(value, Mapping) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ValueError(
            refusal(value, (), allowed="a list of texts, or a mapping with such a `text`")
        )
    found = tuple(dict.fromkeys(trim(text) for text in texts if trim(text)))
    if not found:
        marks = "hidden answers, or a question without one (SQuAD v2): such rows cannot be used"
        hint = "" if texts else f" (an empty list marks {marks})"
        raise ValueError(refusal(value, (), allowed=f"at least one text{hint}"))
    return found


# --- scores as text ---------------------------------------------------------------------

_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")


def score_text(score: float) -> str:
    """A score as a model should say it: rounded to the nearest fifth (a tie to the even one, as
    in T5), with one decimal: 3.75 -> "3.8"."""
    return f"{round(score * 5) / 5:.1f}"


def read_score(text: str) -> float:
    """The first number in what a model said, cut to the range of scores; 0.0 without one."""
    low, high = SCORES
    number = _NUMBER.search(text)
    return min(max(float(number[0]), low), high) if number else low
