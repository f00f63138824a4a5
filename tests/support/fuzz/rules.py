"""The rules that a command keeps whatever it is given: its end, its words, and what it leaves."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from support.fuzz.cases import Case
from support.fuzz.forks import MEMORY, SECONDS, Ended

NOTES = ("note: ",)
LONGEST = 20_000  # characters of a message
RAISED = re.compile(r"^[\w.]*(Error|Exception|Warning|Interrupt)\b", re.MULTILINE)
DRAFT = re.compile(r"\..+\.([0-9a-f]{8}|old)")


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _strict(text: str) -> Any:
    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def broken_rules(
    case: Case, command: list[str], ended: Ended, *, folder: Path, before: dict[str, str]
) -> list[str]:
    """A line for each rule that the command has broken."""
    found = []
    if ended.code not in (0, 1, 2):
        found.append(f"exit code {ended.code}")
    if "Traceback" in ended.err + ended.out:
        found.append("a traceback")
    elif RAISED.search(ended.err):
        found.append("the text of an exception or a warning")
    if ended.cpu_seconds > SECONDS or ended.memory > MEMORY:
        found.append(f"{ended.cpu_seconds:.1f} s of CPU time, {ended.memory >> 20} MiB")
    said = [line for line in ended.err.split("\n") if not line.startswith(NOTES)]
    messages = sum(line.startswith("error: ") for line in said)
    if ended.code == 0 and any(said):
        found.append("messages, and exit code 0")
    elif ended.code != 0 and not (said[0].startswith("error: ") and messages == 1):
        found.append(f"{messages} messages, and exit code {ended.code}")
    if len(ended.err) > LONGEST:
        found.append(f"{len(ended.err)} characters on stderr")
    return (
        found
        + _lost(command, ended.code, folder=folder, before=before)
        + _results(case, command, ended, folder)
    )


def _lost(command: list[str], code: int, *, folder: Path, before: dict[str, str]) -> list[str]:
    after = contents(folder.parent)
    found = [
        f"{name} is lost or changed" for name, digest in before.items() if after.get(name) != digest
    ]
    found += [f"{p} is left behind" for p in folder.parent.rglob(".*") if DRAFT.fullmatch(p.name)]
    new = sorted(set(after) - set(before))
    if code == 2 and new:
        found.append(f"exit code 2, and new files: {new[:4]}")
    return found


def _results(case: Case, command: list[str], ended: Ended, folder: Path) -> list[str]:
    """What is wrong with the answers, scores and counts of a command that ended well."""
    if ended.code != 0:
        return []
    try:
        if command[0] == "evaluate":
            _strict(ended.out)
        if command[0] == "predict":
            answers = [_strict(line) for line in ended.out.splitlines()]
            if case.answers is not None and len(answers) != case.answers:
                return [f"{len(answers)} answers to {case.answers} rows"]
        if command[0] == "train" and case.rows:
            used = _strict((folder / "runs/run/result.json").read_text())["rows"]
            return [
                f"{n} rows of {name}, got {used[name]}"
                for name, n in case.rows.items()
                if used[name] != n
            ]
    except (ValueError, OSError) as error:
        return [f"results: {error}"]
    return []
