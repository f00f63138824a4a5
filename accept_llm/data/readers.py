"""Reads the rows of CSV, TSV, JSON, JSONL and Parquet files: the quick-start set and a user's own.

It does so without `datasets`, so that a mistake shows at once.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accept_llm.errors import RecipeError, did_you_mean
from accept_llm.tasks.base import join_names

# A reader gives the file's columns and all its rows, with the wanted columns at least.
Read = tuple[Sequence[str], list[dict[str, Any]]]


def _csv(path: Path, wanted: Sequence[str], *, delimiter: str = ",") -> Read:
    import pyarrow as pa
    import pyarrow.csv as pacsv

    parse = pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    with pacsv.open_csv(path, parse_options=parse) as file:
        names = file.schema.names
    present = [name for name in wanted if names.count(name) == 1]
    if not present:
        return names, []
    # As text: a guessed type would turn a review "007" into 7 and reject a later "n/a".
    convert = pacsv.ConvertOptions(
        include_columns=present, column_types={name: pa.string() for name in present}
    )
    return names, pacsv.read_csv(path, parse_options=parse, convert_options=convert).to_pylist()


def _tsv(path: Path, wanted: Sequence[str]) -> Read:
    return _csv(path, wanted, delimiter="\t")


def _parquet(path: Path, wanted: Sequence[str], *, count: int | None = None) -> Read:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        present = [name for name in wanted if name in names]
        return names, file.read(columns=present)[:count].to_pylist() if present else []


def _jsonl(path: Path, wanted: Sequence[str]) -> Read:
    lines = path.read_text(encoding="utf-8-sig").split("\n")  # not splitlines: U+2028 is text
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
    return _objects(rows)


def _json(path: Path, wanted: Sequence[str]) -> Read:
    text = path.read_text(encoding="utf-8-sig")
    return _objects(json.loads(text)) if text.lstrip().startswith("[") else _jsonl(path, wanted)


def _objects(rows: list[Any]) -> Read:
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is not an object of columns and values")
    return list(dict.fromkeys(name for row in rows for name in row)), rows


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
    kind = path.suffix.lower()
    if kind not in READERS:
        got = f"{field}: got {path}, of kind {kind or 'nothing'!r}"
        raise RecipeError([f"{got}; allowed: {', '.join(READERS)}"])
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise RecipeError([f"{field}: got {path}, which {what}; allowed: an existing file"])
    try:
        read = partial(_parquet, count=count) if kind == ".parquet" else READERS[kind]
        names, rows = read(path, list(columns))
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors or OSErrors
        why = str(error).strip().split("\n")[0]
        got = f"{field}: got {path}, which cannot be read as {kind[1:].upper()} ({why})"
        raise RecipeError([f"{got}; allowed: a whole file of its kind, in UTF-8"]) from None
    if not rows and not names:
        raise RecipeError([f"{field}: got {path}, which has no rows; allowed: at least one"])
    _check_columns(path, names, columns=columns)
    if not rows:
        raise RecipeError([f"{field}: got {path}, which has no rows; allowed: at least one"])
    return rows[:count]


def count_rows(path: Path) -> int:
    """How many rows a file has that `read_rows` can read; of texts, its lines."""
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            return file.metadata.num_rows
    with path.open("rb") as lines:
        return sum(1 for _ in lines)


def _check_columns(path: Path, names: Sequence[str], *, columns: Mapping[str, str]) -> None:
    header = path.suffix.lower() in (".csv", ".tsv")
    reminder = " (its first line must name the columns)" if header else ""
    problems = []
    for column, field in columns.items():
        times = list(names).count(column)
        if times == 0:
            hint = did_you_mean(column, names) or ";"
            allowed = f"the columns of {path}: {join_names(names)}{reminder}"
            problems.append(f"{field}: got column {column!r}{hint} allowed: {allowed}")
        elif times > 1:
            got = f"{field}: got column {column!r}, which stands {times} times in {path}"
            problems.append(f"{got}; allowed: once")
    if problems:
        raise RecipeError(problems)
