"""New texts for `accept-llm predict`: lines of text, or of JSON with the task's columns; and where
the answers go."""

import json
import sys
from pathlib import Path
from typing import Any

from accept_llm.errors import RecipeError, did_you_mean, short
from accept_llm.tasks.base import Example, Label, Task

SHOWN = 5  # bad lines listed in an error


def read_inputs(source: Path | None, task: Task) -> list[Example]:
    """The examples of a file, or of standard input; RecipeError as in `parse_inputs`."""
    try:
        data = sys.stdin.buffer.read() if source is None else source.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise RecipeError([f"--input: cannot read {source} ({error.strerror})"]) from None
    except UnicodeDecodeError as error:
        name = source or "standard input"
        raise RecipeError([f"--input: {name} is not UTF-8 text (at byte {error.start})"]) from None
    return parse_inputs(text, task)


def parse_inputs(text: str, task: Task) -> list[Example]:
    """One example a line; a line that begins with "{" is JSON and may have an "id".

    Raises RecipeError with the lines that cannot be used. Empty lines are passed over.
    """
    found, problems = [], []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: U+2028 is text
        if line.strip():
            try:
                found.append(_example(line.strip(), number, task))
            except ValueError as error:
                problems.append(f"input line {number}: {error}")
    if len(problems) > SHOWN:
        problems[SHOWN:] = [f"input: {len(problems)} bad lines, the first {SHOWN} are shown"]
    if not found and not problems:
        problems = ["input: got no text; allowed: at least one line"]
    if problems:
        raise RecipeError(problems)
    return found


def _example(line: str, number: int, task: Task) -> Example:
    if line.startswith("{"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"got {short(line)}; not JSON ({error})") from None
        _check_columns(record, task)
    elif len(task.columns) == 1:
        record = {task.columns[0]: line}
    else:
        names = ", ".join(task.columns)
        raise ValueError(f"got plain text, {short(line)}; allowed: JSON with {names}")
    # The label is not known: any will do, its loss is not read.
    label: Label = ("",) if task.is_text else 0.0 if task.is_score else 0
    return Example(str(record.get("id", number)), task.parts(record), label)


def _check_columns(record: dict[str, Any], task: Task) -> None:
    for name in task.columns:
        if name not in record:
            hint = did_you_mean(name, list(record)) or ";"
            raise ValueError(f"no key {name!r}{hint} the line has: {', '.join(record) or 'none'}")


def check_new(out: Path | None) -> None:
    """Refuses a file for the answers that exists, or cannot be made."""
    if out is not None and out.exists():
        raise RecipeError([f"--out: {out} exists and is left as it is"])
    if out is not None and not out.absolute().parent.is_dir():
        raise RecipeError([f"--out: got {out}; allowed: a file in a folder that exists"])


def write_lines(out: Path | None, lines: list[str]) -> None:
    """To a file, or to standard output."""
    text = "".join(line + "\n" for line in lines)
    if out is None:
        sys.stdout.write(text)
    else:
        out.write_text(text, encoding="utf-8")
