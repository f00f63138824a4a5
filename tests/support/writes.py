"""docs/writes.md: what accept_llm writes, and what a write that fails costs, with the calls counted
that the scenes make."""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from support.faults import FAULTS, Point, faults_at
from support.left import undisturbed
from support.scenes import all_scenes
from support.tiny_models import write_llama

PAGE = """# What a write that fails costs

This page is made from the tests (`PYTHONPATH=tests:. python -m support.writes docs/writes.md`).
tests/runs/test_write_faults.py watches each command, counts the calls by which it opens, writes,
syncs, renames and removes below its folders, and has each of them fail once with ENOSPC, EIO and
EACCES (after half of the bytes, where it is a write), and get `kill -9`; calls that need room also
fail on a disk that stays full from there on. Then the command is given once more: a run ends with
the bytes of one that was left alone. `make test` has a few faults for each file, `make test-slow`
all.

An error is one message, and leaves nothing half made. The exit code is 1 once a run has its
folder or answers are being written, and 2 before that and in other commands. A kill can leave a
draft (`.NAME.0123abcd`), a last line that is cut, or an older adapter beside its place, where it
is found; the next command that writes there removes the draft.

| written | where a write fails | whole then | to go on | calls | faults |
|---|---|---|---|---|---|
"""


class Row(NamedTuple):
    """A line of the table; `calls` is a pattern of SCENE:FILE."""

    calls: str
    written: str
    fails: str
    whole: str
    go_on: str


STOPS, NOTE = "the run stops", "a note, and the work goes on"
RESUME, AGAIN = "`--resume`", "the same command"
RUN = r"\w+:runs/run"
ROWS = [
    Row(
        rf"{RUN}(/\.lock)?$|\w+:runs$",
        "the run folder, `.lock`",
        STOPS,
        "nothing was there",
        RESUME,
    ),
    Row(rf"{RUN}/\.?recipe", "`recipe.yaml`", STOPS, "the older one, or none", RESUME),
    Row(rf"{RUN}/\.?metrics", "`metrics.jsonl`", STOPS, "all lines before", RESUME),
    Row(rf"{RUN}/\.?prompt", "`prompt/`, the adapter", STOPS, "the older or the new one", RESUME),
    Row(rf"{RUN}/state", "`state/`", STOPS, "the older or the new one", RESUME),
    Row(rf"{RUN}/tensorboard", "`tensorboard/`", STOPS, "adapter and state", RESUME),
    Row(rf"{RUN}/\.?result", "`result.json`", STOPS, "adapter and state", RESUME),
    Row(rf"{RUN}/\.?README", "`README.md`", STOPS, "all before", RESUME),
    Row(rf"{RUN}/\.?curves", "`curves.png`", STOPS, "all before", RESUME),
    Row(
        rf"{RUN}/\.?nan_batch",
        "`nan_batch.json`",
        "its message has the ids",
        "adapter, state",
        RESUME,
    ),
    Row(r"\w+:cache/tokens|evaluate:cache", "cache: tokens of data sets", NOTE, "the scores", "-"),
    Row(r"\w+:cache/wheels", "cache: GGUF files from wheels", NOTE, "the run", "-"),
    Row(r"\w+:cache", "cache: converted models", NOTE, "the run", "-"),
    Row(
        "predict:",
        "`predict --out FILE`",
        "the command stops",
        "no FILE; the answers so far in FILE.partial",
        AGAIN,
    ),
    Row("copy:", "`recipes copy`", "the command stops", "no file", AGAIN),
    Row("upgrade:", "`recipes upgrade`", "the command stops", "the older recipe", AGAIN),
    Row("record:", "`swarm record`", "it is kept in the cache", "the record", "-"),
    Row("fetch:", "`data fetch`", "the command stops", "no folder", AGAIN),
]


def row_of(scene: str, point: Point) -> Row:
    """The first line that a call belongs to; AssertionError for a file that no line names."""
    call = f"{scene}:{point.file}"
    found = next((row for row in ROWS if re.match(row.calls, call)), None)
    assert found, f"{call} is in no line of docs/writes.md"
    return found


def page(calls: Mapping[str, Sequence[Point]]) -> str:
    """docs/writes.md, of the calls with faults of each scene."""
    counts = {row.written: [0, 0] for row in ROWS}
    for scene, points in calls.items():
        for point in points:
            count = counts[row_of(scene, point).written]
            count[0] += 1
            count[1] += len(faults_at(point))
    lines = []
    for row in ROWS:
        numbers = " | ".join(f"{number}" for number in counts[row.written])
        lines.append(f"| {row.written} | {row.fails} | {row.whole} | {row.go_on} | {numbers} |")
    every = [
        fault.kind for points in calls.values() for point in points for fault in faults_at(point)
    ]
    kinds = ", ".join(f"{kind} {every.count(kind)}" for kind in FAULTS)
    total = f"In all: {sum(map(len, calls.values()))} calls and {len(every)} faults ({kinds})."
    return PAGE + "\n".join(lines) + f"\n\n{total}\nFULL is the disk that stays full.\n"


def main(file: str) -> None:
    """Writes the page to a file: libraries print what they like."""
    with TemporaryDirectory() as folder:
        write_llama(Path(folder))
        with all_scenes(Path(folder)) as scenes:
            clean = {n: undisturbed(s, scenes.director) for n, s in scenes.stages.items()}
    text = page({name: found.points for name, found in clean.items()})
    Path(file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
