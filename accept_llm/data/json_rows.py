"""Reads JSON and JSONL, and refuses an object that has a key twice: one of the values would be lost
without a word.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accept_llm.data.files import Read, read_text
from accept_llm.tasks.base import join_names, nfc


class RepeatedKey(ValueError):
    """An object has a key several times."""


def read_jsonl(path: Path, wanted: Sequence[str]) -> Read:
    """The columns and rows of a file with an object a line; ValueError names the line."""
    return _json_lines(read_text(path))


def read_json(path: Path, wanted: Sequence[str]) -> Read:
    """The columns and rows of a list of objects, of one object, or of an object a line."""
    text = read_text(path)
    try:
        data = loads(text)
    except RepeatedKey:
        raise
    except ValueError:
        if text.lstrip().startswith("{"):
            return _json_lines(text)
        raise
    if isinstance(data, dict) and not any(name in data for name in wanted):
        keys = join_names(list(data))
        raise ValueError(f"it is one object, of {keys}; a list of rows, or a row a line, is read")
    return _objects(data if isinstance(data, list) else [data])


def _json_lines(text: str) -> Read:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: U+2028 is text
        if line.strip():
            try:
                rows.append(loads(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
    return _objects(rows)


def _objects(rows: list[Any]) -> Read:
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is not an object of columns and values")
    named = [{nfc(name): value for name, value in row.items()} for row in rows]
    return list(dict.fromkeys(name for row in named for name in row)), named


# --- values -----------------------------------------------------------------------------


def loads(text: str) -> Any:
    """A JSON value; ValueError also where it is nested too deeply to be read, or has an object with
    a key twice (RepeatedKey)."""
    repeated: list[tuple[dict[str, Any], str]] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        try:
            check_once([name for name, _ in pairs])
        except RepeatedKey as error:
            repeated.append((made, str(error)))
        return made

    try:
        data = json.loads(text, object_pairs_hook=once)
        for made, problem in repeated:
            rows = enumerate(data) if isinstance(data, list) else ()
            where = [f"row {number} (from 0): " for number, row in rows if _holds(row, made)]
            raise RepeatedKey(f"{where[0] if where else ''}{problem}")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return data


def check_once(names: Sequence[str]) -> None:
    """RepeatedKey where names are the same, however their accents are written."""
    if len({nfc(name) for name in names}) < len(names):
        name, times = Counter(map(nfc, names)).most_common(1)[0]
        raise RepeatedKey(f"key {name!r} stands {times} times in one object, and may stand once")


def _holds(value: Any, sought: dict[str, Any]) -> bool:
    """Whether this very object lies in a value, at any depth."""
    if value is sought:
        return True
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_holds(inner, sought) for inner in below)
