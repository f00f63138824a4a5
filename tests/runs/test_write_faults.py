"""A fault at each call that writes: nothing is lost, one message says it, and the command goes on
to the same bytes. The calls are those that a command was seen to make; none is listed here."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import ROOT
from support.faults import Fault, Point, Watch, faults_at
from support.left import Undisturbed, trial, undisturbed
from support.scenes import Scenes, all_scenes
from support.writes import page

NAMES = (
    *("train", "resume", "curves", "events", "nan", "convert", "evaluate", "predict"),
    *("copy", "upgrade", "record", "fetch"),
)


@pytest.fixture(scope="module")
def scenes(tiny_llama: Path) -> Iterator[Scenes]:
    with all_scenes(tiny_llama) as scenes:
        yield scenes


@pytest.fixture(scope="module")
def clean(scenes: Scenes) -> dict[str, Undisturbed]:
    assert set(scenes.stages) == set(NAMES)
    return {name: undisturbed(stage, scenes.director) for name, stage in scenes.stages.items()}


def a_few(points: list[Point]) -> list[Fault]:
    """For each call and file one fault, of all kinds in turn, at its first or its last time."""
    last = {(point.call, point.file): point for point in points}
    first = {(point.call, point.file): point for point in reversed(points)}
    chosen = []
    for number, (key, point) in enumerate(last.items()):
        faults = faults_at(point if number % 2 else first[key])
        chosen.append(faults[number % len(faults)])
    return chosen


def failures(found: Undisturbed, faults: list[Fault], scenes: Scenes) -> str:
    wrong = []
    for fault in faults:
        wrong += trial(found, fault, scenes.director)
    return "\n".join(wrong)


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_at_each_call(name: str, scenes: Scenes, clean: dict[str, Undisturbed]) -> None:
    found = clean[name]
    faults = a_few(found.points)
    assert faults
    assert not failures(found, faults, scenes)


def test_the_page_of_the_docs_has_these_counts(clean: dict[str, Undisturbed]) -> None:
    calls = {name: found.points for name, found in clean.items()}
    assert page(calls) == (ROOT / "docs/writes.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_no_file_is_written_unseen(name: str, clean: dict[str, Undisturbed]) -> None:
    """The files that a command makes are those whose opening was seen, be it as drafts."""
    opened = [point.file for point in clean[name].ended.points if point.call == "open"]
    final = {re.sub(r"\.([^/]+)\.~(?=/|$)|\.partial$", r"\1", file) for file in opened}
    named = Watch(str(clean[name].stage.work), log=-1).name
    assert {named(path) for path in clean[name].files} <= final


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_fault_at_every_call(
    name: str, scenes: Scenes, clean: dict[str, Undisturbed]
) -> None:
    found = clean[name]
    points = found.points
    faults = [fault for point in points for fault in faults_at(point)]
    print(f"{name}: {len(points)} points, {len(faults)} faults")
    assert not failures(found, faults, scenes)
