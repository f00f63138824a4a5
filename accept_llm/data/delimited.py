"""Reads CSV and TSV, and refuses rows that a quotation mark has made one: where it is closed late,
the lines until there are a single text.
"""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from accept_llm.data.files import Read, read_text
from accept_llm.tasks.base import nfc

SWALLOWED = 3
"""Lines that are one quoted text though each looks like a row: a quotation mark is not closed."""
NAMED = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
_BREAK = re.compile(r"\r\n|\r|\n")  # where csv counts a line; U+2028 is text
LATE = "are one row, by a quotation mark that is closed late"


# Python's reader and not pyarrow's: it is strict about quotation marks, and knows the line.
def read_delimited(path: Path, wanted: Sequence[str], *, delimiter: str = ",") -> Read:
    """The columns and rows of a CSV file, or of one of another delimiter that is quoted like it;
    ValueError says what is wrong, and in which line."""
    csv.field_size_limit(1 << 30)
    lines = list(io.StringIO(read_text(path), newline=""))  # not splitlines, as above
    _check_delimiter(lines, wanted, delimiter=delimiter)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] = []
    rows, long, first = [], [], 1
    try:
        for values in reader:
            if not names:
                names = [nfc(name) for name in values]
            elif values:
                _check_row(values, names, where=f"line {first}")
                if reader.line_num > first:
                    long.append(_LongRow(first, reader.line_num, values))
                rows.append(dict(zip(names, values, strict=True)))
            first = reader.line_num + 1
    except csv.Error as error:
        marks = 'quotation marks stand around a whole text, and doubled ("") inside it'
        raise ValueError(f"line {reader.line_num}: {error}; {marks}") from None
    table = _Table(lines, names, rows, delimiter)
    for row in long:
        table.check(row)
    return names, rows


def has_break(row: dict[str, Any]) -> bool:
    """Whether a text of a row has several lines."""
    return any("\n" in value or "\r" in value for value in row.values())


def _check_row(values: Sequence[str], names: Sequence[str], *, where: str) -> None:
    if len(values) != len(names):
        raise ValueError(f"{where} has {len(values)} columns, the first line {len(names)}")


def _check_delimiter(lines: Sequence[str], wanted: Sequence[str], *, delimiter: str) -> None:
    """Refuses a first line whose names something else than the delimiter stands between."""
    header = next((line.strip("\r\n") for line in lines if line.strip("\r\n")), "")
    if delimiter in header or nfc(header.strip('"')) in wanted:
        return
    for other, name in NAMED.items():
        if other in header:
            got = f"{header[:80]!r}, where {name} ({other!r}) is between the columns"
            allowed = "a comma (',') in .csv, a tab ('\\t') in .tsv"
            raise ValueError(f"its first line is {got}; allowed: {allowed}")


# --- rows of several lines --------------------------------------------------------------


@dataclass(frozen=True)
class _LongRow:
    """A row of several lines, by its first and its last, counted from 1."""

    first: int
    last: int
    values: list[str]


@dataclass(frozen=True)
class _Table:
    """A file whose rows are read, to tell a text of several lines from several rows."""

    lines: Sequence[str]
    names: list[str]
    rows: list[dict[str, Any]]
    delimiter: str

    @cached_property
    def taken(self) -> list[set[str]]:
        """The values that each column takes in the file, but for blank ones."""
        return [{row[n] for row in self.rows if row[n].strip()} for n in self.names]

    def check(self, row: _LongRow) -> None:
        """Refuses a row whose lines are rows themselves, as far as that is certain."""
        where = f"lines {row.first} to {row.last} {LATE}"
        if self._looks_like_rows(self.lines[row.first - 1 : row.last]):
            raise ValueError(f"{where}, though each looks like one")
        start = row.first
        for column, value in enumerate(row.values):
            lines = _BREAK.split(value) if "\n" in value or "\r" in value else ()
            for number, line in enumerate(lines):
                found = number < len(lines) - 1 and self._end(line, column, inner=number > 0)
                how = "ends" if found else "begins"
                if number and not found:
                    found = self._start(line, column, inner=number < len(lines) - 1)
                if found:
                    what = f"line {start + number} {how} as a row does, with {found!r}"
                    todo = "a text that truly has such a line can be given in JSONL"
                    raise ValueError(f"{where}: {what}; {todo}")
            start += max(len(lines) - 1, 0)

    def _looks_like_rows(self, lines: Sequence[str]) -> bool:
        """Whether each line has the columns of a row, and no delimiter as prose has commas."""
        count = len(self.names)
        found = [line.strip("\r\n") for line in lines if line.strip()]
        if count == 1 or len(found) < SWALLOWED:
            return False
        if any(line.count(self.delimiter) != count - 1 for line in found):
            return False
        return all(piece[:1].strip() for line in found for piece in line.split(self.delimiter))

    # A text has swallowed rows where its lines, but for the last, end in what stands in the
    # columns behind it, and, but for the first, begin with what stands in the columns before it.
    def _end(self, line: str, column: int, *, inner: bool) -> str | None:
        """What a line of a text ends in, from a delimiter on, where it is the value of a later
        column elsewhere."""
        count = len(self.names)
        if line.count(self.delimiter) + 1 < (count if inner else count - column):
            return None
        pieces = line.rsplit(self.delimiter, count - 1 - column)
        for place in range(column + 1 - count, 0):
            if pieces[place] in self.taken[place] and not self._in_number(pieces, place):
                return self.delimiter + self.delimiter.join(pieces[place:])
        return None

    def _start(self, line: str, column: int, *, inner: bool) -> str | None:
        """What a line of a text begins with, up to a delimiter, where it is the value of an earlier
        column elsewhere that says little, as a label does."""
        if line.count(self.delimiter) < (len(self.names) - 1 if inner else column):
            return None
        pieces = line.split(self.delimiter, column)
        for place in range(column):
            known = pieces[place] in self.taken[place] and len(self.taken[place]) < len(self.rows)
            tight = pieces[place + 1][:1].strip()  # prose has a space behind a comma
            if known and tight and not self._in_number(pieces, place + 1):
                return self.delimiter.join(pieces[: place + 1]) + self.delimiter
        return None

    def _in_number(self, pieces: Sequence[str], place: int) -> bool:
        """Whether the comma before a piece may be that of a number, such as 2,5 or 1,000."""
        before, after = pieces[place - 1], pieces[place]
        return self.delimiter == "," and before[-1:].isdigit() and after[:1].isdigit()
