"""New texts for `accept-llm predict`: lines of text, or of JSON with the task's columns; and where
the answers go."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from accept_llm.data.files import decode, read_bytes
from accept_llm.data.json_rows import RepeatedKey, check_once, loads
from accept_llm.data.readers import READERS, kind_of_file, read_rows
from accept_llm.errors import Notify, RecipeError, did_you_mean, short, silent
from accept_llm.storage import append_line, growing_file
from accept_llm.tasks.base import Example, Label, Task, join_names, nfc, trim

T = TypeVar("T")
LINES = ("", ".txt", ".text", ".md")
"""Kinds of files that are read line by line, as standard input is."""
SHOWN = 5  # bad lines listed in an error


def read_inputs(source: Path | None, task: Task, *, notify: Notify = silent) -> list[Example]:
    """The examples of a file, or of standard input: the kinds of files that training reads as it
    does, texts and standard input line by line, also gzipped; `notify` as in `read_rows`, and
    RecipeError as there and in `parse_inputs`."""
    kind = "" if source is None else kind_of_file(source)
    if source is not None and kind in READERS:
        columns = dict.fromkeys(task.columns, "--input")
        rows = read_rows(source, field="--input", columns=columns, optional=("id",), notify=notify)
        return _examples(enumerate(rows, 1), task, read=_check_input, where="row")
    if kind not in LINES:
        allowed = f"{', '.join(READERS)}, or for lines of text {', '.join(LINES[1:])} or no suffix"
        got = f"--input: got {source}, of kind {kind!r}"
        raise RecipeError([f"{got}; allowed: {allowed} (all but Parquet also as .gz)"])
    name = source or "standard input"
    try:
        text = decode(sys.stdin.buffer.read() if source is None else read_bytes(source))
    except UnicodeDecodeError as error:
        raise RecipeError([f"--input: {name} is not UTF-8 text (at byte {error.start})"]) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise RecipeError([f"--input: cannot read {name} ({why}); allowed: UTF-8 text"]) from None
    return parse_inputs(text, task)


def parse_inputs(text: str, task: Task) -> list[Example]:
    """One example a line; a line that begins with "{" is JSON and may have an "id".

    Raises RecipeError with the lines that cannot be used. Empty lines are passed over.
    """
    lines = enumerate(text.split("\n"), 1)  # not splitlines: U+2028 is text
    return _examples(((n, line.strip()) for n, line in lines if trim(line)), task, read=_read_line)


def make_inputs(inputs: Sequence[str | Mapping[str, Any]], task: Task) -> list[Example]:
    """An example for each text or mapping of columns; RecipeError as in `parse_inputs`."""
    if isinstance(inputs, str | bytes | Mapping) or not isinstance(inputs, Sequence):
        allowed = "a list of texts, or of mappings of the task's columns"
        raise RecipeError([f"inputs: got {short(inputs)}; allowed: {allowed}"])
    return _examples(enumerate(inputs, 1), task, read=_check_input)


def _check_input(item: Any) -> str | Mapping[str, Any]:
    if isinstance(item, str | Mapping):
        return item
    raise ValueError(f"got {short(item)}; allowed: a text, or a mapping of the task's columns")


def _examples(
    items: Iterable[tuple[int, T]],
    task: Task,
    *,
    read: Callable[[T], str | Mapping[str, Any]],
    where: str = "line",
) -> list[Example]:
    found, problems = [], []
    for number, item in items:
        try:
            found.append(_example(read(item), number, task=task))
        except ValueError as error:
            problems.append(f"input {where} {number}: {error}")
    if len(problems) > SHOWN:
        problems[SHOWN:] = [f"input: {len(problems)} bad {where}s, the first {SHOWN} are shown"]
    if not found and not problems:
        problems = ["input: got no text; allowed: at least one line"]
    if problems:
        raise RecipeError(problems)
    return found


def _read_line(line: str) -> str | Mapping[str, Any]:
    if not line.startswith("{"):
        return line
    try:
        return loads(line)
    except RepeatedKey as error:
        raise ValueError(f"got {short(line)}; {error}") from None
    except ValueError as error:
        raise ValueError(f"got {short(line)}; not JSON ({error})") from None


def _example(given: str | Mapping[str, Any], number: int, *, task: Task) -> Example:
    if isinstance(given, str) and len(task.columns) > 1:
        names = ", ".join(task.columns)
        raise ValueError(f"got plain text, {short(given)}; allowed: JSON with {names}")
    if isinstance(given, Mapping):
        check_once(list(map(str, given)))
        given = {nfc(str(name)): value for name, value in given.items()}
    record = {task.columns[0]: given} if isinstance(given, str) else given
    _check_columns(record, task)
    # The label is not known: any will do, its loss is not read.
    label: Label = ("",) if task.is_text else 0.0 if task.is_score else 0
    id = record.get("id")
    return Example(str(number if id in (None, "") else id), task.parts(record), label)


def _check_columns(record: Mapping[str, Any], task: Task) -> None:
    for name in task.columns:
        if name not in record:
            hint = did_you_mean(name, list(record)) or ";"
            raise ValueError(
                f"no key {name!r}{hint} the line has: {join_names(list(record)) or 'none'}"
            )


def check_new(out: Path | None) -> None:
    """Refuses a file for the answers that exists, or cannot be made."""
    if out is None:
        return
    if out.exists():
        raise RecipeError([f"--out: {out} exists and is left as it is"])
    folder = out.absolute().parent
    if not folder.is_dir():
        raise RecipeError([f"--out: got {out}; allowed: a file in a folder that exists"])
    if not os.access(folder, os.W_OK):
        raise RecipeError([f"--out: got {out}, but {folder} cannot be written to"])


@contextmanager
def open_output(out: Path | None) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Writes each answer it is given as a line of JSON at once, to standard output or to the file
    OUT.partial, which becomes `out` at the end; what an encoding does not have as escapes. Without
    an answer there is no file."""
    if out is None:
        plain = not (sys.stdout.encoding or "").lower().startswith("utf")
        yield lambda answer: print(json.dumps(answer, ensure_ascii=plain), flush=True)
        return
    with ExitStack() as stack:
        try:
            file = stack.enter_context(growing_file(out))
        except OSError as error:
            raise RecipeError([f"--out: cannot write {out} ({error.strerror})"]) from None
        yield lambda answer: append_line(file, json.dumps(answer, ensure_ascii=False))
