"""Reads the rows of CSV, TSV, JSON, JSONL and Parquet files: the quick-start set and a user's own.

It does so without `datasets`, so that a mistake shows at once.
"""

import gzip
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accept_llm.data.delimited import has_break, read_delimited
from accept_llm.data.files import GZ, Read
from accept_llm.data.json_rows import read_json, read_jsonl
from accept_llm.errors import Notify, RecipeError, did_you_mean, silent
from accept_llm.tasks.base import join_names, nfc

TABLES = (".csv", ".tsv")


def _parquet(
    path: Path, wanted: Sequence[str], *, count: int | None = None, optional: Sequence[str] = ()
) -> Read:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            stored = file.schema_arrow.names
            names = [nfc(name) for name in stored]
            present = [
                old for old, name in zip(stored, names, strict=True) if name in (*wanted, *optional)
            ]
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


READERS: dict[str, Callable[[Path, Sequence[str]], Read]] = {
    ".csv": read_delimited,
    ".tsv": partial(read_delimited, delimiter="\t"),
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".parquet": _parquet,
}


def read_rows(
    path: Path,
    *,
    field: str,
    columns: Mapping[str, str],
    optional: Sequence[str] = (),
    count: int | None = None,
    notify: Notify = silent,
) -> list[dict[str, Any]]:
    """The rows of a CSV, TSV (quoted as CSV is), JSON, JSONL or Parquet file, or the first `count`
    of them (which is quicker with Parquet).

    `field` is the recipe's key that gave the path; `columns` maps each needed column to the
    key that gave its name; `optional` ones are kept where they are. `notify` is told of texts of
    several lines in CSV, which a wrong quotation mark can make of rows. Raises RecipeError: no
    such file, an unknown suffix, a file that is not of its kind, a missing column, no rows.
    """
    kind = kind_of_file(path)
    if kind not in READERS:
        got = f"{field}: got {path}, of kind {kind or 'nothing'!r}"
        raise RecipeError([f"{got}; allowed: {', '.join(READERS)} (all but Parquet also as .gz)"])
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise RecipeError([f"{field}: got {path}, which {what}; allowed: an existing file"])
    try:
        read = READERS[kind]
        if kind == ".parquet":
            read = partial(_parquet, count=count, optional=optional)
        names, rows = read(path, list(columns))
    except (OSError, ValueError) as error:
        why = str(error).strip().split("\n")[0]
        got = f"{field}: got {path}, which cannot be read as {kind[1:].upper()} ({why})"
        raise RecipeError([f"{got}; allowed: a whole file of its kind, in UTF-8"]) from None
    if not rows and not names:
        raise RecipeError([f"{field}: got {path}, which has no rows; allowed: at least one"])
    _check_columns(
        path, names, columns={**dict.fromkeys(set(optional) & set(names), field), **columns}
    )
    if not rows:
        raise RecipeError([f"{field}: got {path}, which has no rows; allowed: at least one"])
    several = sum(map(has_break, rows)) if kind in TABLES else 0
    if several:
        notify(f"{field}: {path}: {several} of {len(rows)} rows have line breaks inside a text")
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
    header = kind_of_file(path) in TABLES
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
