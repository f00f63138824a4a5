"""Reads the rows of CSV, TSV, JSON, JSONL and Parquet files: the quick-start set and a user's own.

It does so without `datasets`, so that a mistake shows at once.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accept_llm.errors import RecipeError, did_you_mean
from accept_llm.tasks.base import join_names, nfc

# A reader gives the file's columns and all its rows, with the wanted columns at least.
Read = tuple[Sequence[str], list[dict[str, Any]]]
GZ = ".gz"
SWALLOWED = 3
"""Lines that are one quoted text though each looks like a row: a quotation mark is not closed."""


def read_bytes(path: Path) -> bytes:
    """What is in a file, or in a gzipped one; ValueError where that is cut or damaged."""
    data = path.read_bytes()
    if path.suffix.lower() != GZ:
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"it is not gzip, or cut or damaged: {error}") from None


def _text(path: Path) -> str:
    return read_bytes(path).decode("utf-8-sig")


# Python's reader and not pyarrow's: it is strict about quotation marks, and knows the line.
def _csv(path: Path, wanted: Sequence[str], *, delimiter: str = ",") -> Read:
    csv.field_size_limit(1 << 30)
    # Not splitlines: a line ends where csv counts one, and U+2028 is text.
    lines = list(io.StringIO(_text(path), newline=""))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] = []
    rows, first = [], 1
    try:
        for values in reader:
            if not names:
                names = [nfc(name) for name in values]
            elif values:
                _check_row(values, names, where=f"line {first}")
                _check_quotes(
                    lines, (first, reader.line_num), delimiters=(delimiter, len(names) - 1)
                )
                rows.append(dict(zip(names, values, strict=True)))
            first = reader.line_num + 1
    except csv.Error as error:
        marks = 'quotation marks stand around a whole text, and doubled ("") inside it'
        raise ValueError(f"line {reader.line_num}: {error}; {marks}") from None
    return names, rows


def _check_row(values: Sequence[str], names: Sequence[str], *, where: str) -> None:
    if len(values) != len(names):
        raise ValueError(f"{where} has {len(values)} columns, the first line {len(names)}")


def _check_quotes(
    lines: Sequence[str], row: tuple[int, int], *, delimiters: tuple[str, int]
) -> None:
    """Whether the lines of a row, by its first and its last, look like rows themselves."""
    (first, last), (delimiter, count) = row, delimiters
    if last - first + 1 >= SWALLOWED and all(
        line.count(delimiter) == count for line in lines[first - 1 : last]
    ):
        what = "are one row, by a quotation mark that is closed late, though each looks like one"
        raise ValueError(f"lines {first} to {last} {what}")


def _tsv(path: Path, wanted: Sequence[str]) -> Read:
    return _csv(path, wanted, delimiter="\t")


def _parquet(path: Path, wanted: Sequence[str], *, count: int | None = None) -> Read:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            stored = file.schema_arrow.names
            names = [nfc(name) for name in stored]
            present = [old for old, name in zip(stored, names, strict=True) if name in wanted]
            table = file.read(columns=present)[:count] if present else None
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None
    if table is None:
        return names, []
    kept = [nfc(name) for name in table.column_names]
    found = [_values(column, name) for name, column in zip(kept, table.columns, strict=True)]
    return names, [dict(zip(kept, row, strict=True)) for row in zip(*found, strict=True)]


def _values(column: Any, name: str) -> list[Any]:
    """A column's values as Python has them; ValueError for those that it cannot have, such as times
    after the year 9999 or of a zone that is not known."""
    import pyarrow as pa

    try:
        return column.to_pylist()
    except (pa.ArrowException, LookupError, OverflowError, ValueError) as error:
        raise ValueError(f"column {name!r} of type {column.type}: {error}") from None


def _jsonl(path: Path, wanted: Sequence[str]) -> Read:
    return _json_lines(_text(path))


def _json_lines(text: str) -> Read:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: U+2028 is text
        if line.strip():
            try:
                rows.append(loads(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
    return _objects(rows)


def _json(path: Path, wanted: Sequence[str]) -> Read:
    text = _text(path)
    try:
        data = loads(text)
    except ValueError:
        if text.lstrip().startswith("{"):
            return _json_lines(text)
        raise
    if isinstance(data, dict) and not any(name in data for name in wanted):
        keys = join_names(list(data))
        raise ValueError(f"it is one object, of {keys}; a list of rows, or a row a line, is read")
    return _objects(data if isinstance(data, list) else [data])


def loads(text: str) -> Any:
    """A JSON value; ValueError also where it is nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _objects(rows: list[Any]) -> Read:
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is not an object of columns and values")
    named = [{nfc(name): value for name, value in row.items()} for row in rows]
    return list(dict.fromkeys(name for row in named for name in row)), named


READERS: dict[str, Callable[[Path, Sequence[str]], Read]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
}


def read_rows(
    path: Path, *, field: str, columns: Mapping[str, str], count: int | None = None
) -> list[dict[str, Any]]:
    """The rows of a CSV, TSV (quoted as CSV is), JSON, JSONL or Parquet file, or the first `count`
    of them (which is quicker with Parquet).

    `field` is the recipe's key that gave the path; `columns` maps each needed column to the
    key that gave its name. Raises RecipeError: no such file, an unknown suffix, a file that
    is not of its kind, a missing column, no rows.
    """
    kind = kind_of_file(path)
    if kind not in READERS:
        got = f"{field}: got {path}, of kind {kind or 'nothing'!r}"
        raise RecipeError([f"{got}; allowed: {', '.join(READERS)} (all but Parquet also as .gz)"])
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise RecipeError([f"{field}: got {path}, which {what}; allowed: an existing file"])
    try:
        read = partial(_parquet, count=count) if kind == ".parquet" else READERS[kind]
        names, rows = read(path, list(columns))
    except (OSError, ValueError) as error:
        why = str(error).strip().split("\n")[0]
        got = f"{field}: got {path}, which cannot be read as {kind[1:].upper()} ({why})"
        raise RecipeError([f"{got}; allowed: a whole file of its kind, in UTF-8"]) from None
    if not rows and not names:
        raise RecipeError([f"{field}: got {path}, which has no rows; allowed: at least one"])
    _check_columns(path, names, columns=columns)
    if not rows:
        raise RecipeError([f"{field}: got {path}, which has no rows; allowed: at least one"])
    return rows[:count]


def kind_of_file(path: Path) -> str:
    """The suffix that says how a file is read: .csv of x.csv and of x.csv.gz."""
    suffix = path.suffix.lower()
    if suffix != GZ:
        return suffix
    inner = path.with_suffix("").suffix.lower()
    return inner if inner != ".parquet" else suffix


def count_rows(path: Path) -> int:
    """How many rows a file has that `read_rows` can read; of texts, its lines."""
    if kind_of_file(path) == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            return file.metadata.num_rows
    opened = gzip.open if path.suffix.lower() == GZ else open
    with opened(path, "rb") as lines:
        return sum(1 for _ in lines)


def _check_columns(path: Path, names: Sequence[str], *, columns: Mapping[str, str]) -> None:
    header = kind_of_file(path) in (".csv", ".tsv")
    reminder = " (its first line must name the columns)" if header else ""
    problems = []
    for column, field in columns.items():
        times = list(names).count(column)
        if times == 0:
            hint = did_you_mean(column, names) or ";"
            allowed = f"the columns of {path}: {join_names(names)}{reminder}"
            if field == "task.label":  # the rows of a test set may have none
                allowed += "; rows without labels are answered by `accept-llm predict --input FILE`"
            problems.append(f"{field}: got column {column!r}{hint} allowed: {allowed}")
        elif times > 1:
            got = f"{field}: got column {column!r}, which stands {times} times in {path}"
            problems.append(f"{got}; allowed: once")
    if problems:
        raise RecipeError(problems)
