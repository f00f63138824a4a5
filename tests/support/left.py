"""A trial: a command with a fault, what it says and leaves, and the same command once more. What is
left is compared with what there was before and with what an undisturbed command leaves."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from accept_llm.adapter.folder import load
from accept_llm.errors import RecipeError
from accept_llm.runs.log import read_metrics
from accept_llm.storage import whole_folder
from accept_llm.training.state import load_state
from support.faults import Fault, Point, plain
from support.trials import Director, Ended, Stage

DRAFT = re.compile(r"\..+\.([0-9a-f]{8}|old)|.+\.partial(\.lock)?")
IN_BETWEEN = re.compile(r"/(prompt|state|tensorboard|metrics)\b")  # `check_run` looks at them
TIMES = ("seconds", "examples_per_second")
MEASURED = ("test", "validation", "steps", "best_step", "trainable", "rows", "history")
PNG_END = b"IEND\xaeB`\x82"


def content(path: Path) -> Any:
    """A file without what differs between two runs of a command, such as times."""
    if path.name == "metrics.jsonl":
        return [{k: v for k, v in x.items() if k not in TIMES} for x in read_metrics(path)]
    if path.name == "result.json":
        return {key: json.loads(path.read_text())[key] for key in MEASURED}
    if path.name == "state.pt":
        state = torch.load(path, weights_only=True)
        tensors = [*state["method"].values(), *state["head"].values()]
        return state["step"], state["best"]["step"], [tensor.tolist() for tensor in tensors]
    if path.suffix == ".png":
        return path.read_bytes()[-8:] == PNG_END
    if path.name == "README.md" or "tfevents" in path.name or path.name.startswith("."):
        return path.stat().st_size > 0 or path.name == ".lock"
    return path.read_bytes()


def contents(work: Path) -> dict[str, Any]:
    """Of every file below a folder but drafts, by its plain name."""
    half = [path for path in work.rglob("*") if DRAFT.fullmatch(path.name)]
    files = [p for p in sorted(work.rglob("*")) if p.is_file() and not {p, *p.parents} & {*half}]
    return {plain(str(path.relative_to(work))): content(path) for path in files}


def drafts(work: Path) -> list[str]:
    """What lies there half made."""
    return [str(p.relative_to(work)) for p in work.rglob("*") if DRAFT.fullmatch(p.name)]


def has_whole_lines(path: Path) -> bool:
    """Whether a file is one of answers so far, each of them whole."""
    lines = path.read_text().splitlines(keepends=True) if path.suffix == ".partial" else []
    return bool(lines) and all(line.endswith("}\n") for line in lines)


def shortfall(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Files that are not as wanted, and those that nobody wants; the cache may have more."""
    more = [f"{x} is too many" for x in found if x not in wanted and not x.startswith("cache/")]
    return more + [
        f"{name} is {'other' if name in found else 'not there'}"
        for name, value in wanted.items()
        if name not in found or found[name] != value
    ]


@dataclass(frozen=True)
class Undisturbed:
    """What there was in a stage's folder before its command, and after it."""

    stage: Stage
    before: dict[str, Any]
    after: dict[str, Any]
    ended: Ended
    files: list[Path]
    """Those that the command has made."""
    drafts: list[str]
    """Those of a kill before the command."""

    @property
    def points(self) -> list[Point]:
        """Those at which the scene has faults."""
        return [x for x in self.ended.points if re.match(self.stage.scene.faulty, x.file)]


def undisturbed(stage: Stage, director: Director) -> Undisturbed:
    """Plays a scene without a fault."""
    stage.set_up()
    before, known, old = contents(stage.work), {*stage.work.rglob("*")}, drafts(stage.work)
    ended = stage.play(director)
    assert ended.code == stage.scene.code, ended.text
    assert not drafts(stage.work)
    files = [path for path in stage.work.rglob("*") if path.is_file() and path not in known]
    return Undisturbed(stage, before, contents(stage.work), ended, files, old)


def trial(clean: Undisturbed, fault: Fault, director: Director) -> list[str]:
    """What is wrong after a command with a fault, and after the command that goes on."""
    stage = clean.stage
    stage.set_up()
    ended = stage.play(director, fault=fault)
    wrong = [] if fault.point in ended.points else ["the point was not reached"]
    wrong += said_wrongly(clean, ended, fault) + left_wrongly(clean, ended, fault)
    if ended.code == 0 or (
        fault.kind == "KILL" and not shortfall(contents(stage.work), clean.after)
    ):
        return [f"{fault}: {line}" for line in wrong]  # there is nothing more to do
    done = stage.play(director, again=True)
    if done.code != stage.scene.code:
        wrong.append(f"then: exit code {done.code}: {done.text[-600:]}")
    elif stage.scene.code == 0:
        wrong += [f"then: {line}" for line in shortfall(contents(stage.work), clean.after)]
    wrong += [f"then: {name} is left" for name in drafts(stage.work)]
    return [f"{fault}: {line}" for line in wrong]


def said_wrongly(clean: Undisturbed, ended: Ended, fault: Fault) -> list[str]:
    """A command with a fault ends with one message, or it is done."""
    if fault.kind == "KILL":
        return [] if ended.code == -9 else [f"exit code {ended.code}, not killed"]
    wrong = [w for w in ("Traceback", "Exception ignored") if w in ended.text]
    errors = [line for line in ended.text.splitlines() if line.startswith("error: ")]
    if ended.code != clean.stage.scene.code or errors:
        if ended.code not in (1, 2) or len(errors) != 1:
            wrong.append(f"exit code {ended.code}")
        if fault.point.file.startswith("cache"):
            wrong.append("a cache has ended the command")
    return [f"{line}: {ended.text[-1500:]}" for line in wrong]


def left_wrongly(clean: Undisturbed, ended: Ended, fault: Fault) -> list[str]:
    """What is there is whole: as it was before, as it is without a fault, or in between."""
    work = clean.stage.work
    wrong = check_run(work / "runs/run", ended, killed=fault.kind == "KILL")
    if fault.kind != "KILL":
        for name in set(drafts(work)) - set(clean.drafts):
            is_told = fault.point.file.startswith(name) and "cannot be removed" in ended.text
            if not (is_told or has_whole_lines(work / name)):
                wrong.append(f"{name} is left")
    now = {name: value for name, value in contents(work).items() if not IN_BETWEEN.search(name)}
    for name, value in now.items():
        known = (clean.before.get(name), clean.after.get(name))
        if value not in known and not (known == (None, None) and name.startswith("cache/")):
            wrong.append(f"{name} is neither as before nor as it will be")
    if ended.code == 0:
        spare = ("cache", clean.stage.scene.spare)
        now, later = (
            {name: value for name, value in files.items() if not name.startswith(spare)}
            for files in (contents(work), clean.after)
        )
        wrong += [f"done, but {line}" for line in shortfall(now, later)]
        lacks = [x for x in clean.after if x.startswith("cache") and x not in contents(work)]
        if lacks and "note: " not in ended.text:
            wrong.append(f"{lacks} without a note")
    there = contents(work)
    gone = [name for name in clean.before if "/prompt/" not in name and name not in there]
    return wrong + [f"{name} is gone" for name in gone]


def check_run(folder: Path, ended: Ended, *, killed: bool) -> list[str]:
    """An adapter and a state that were whole are there, or newer ones; so is the log, but for a
    last line that a kill has cut."""
    wrong = []
    try:
        if "adapter" in ended.kept and load(folder / "prompt").card.step < ended.kept["adapter"]:
            wrong.append("the adapter is older than it was")
        if whole_folder(folder / "prompt").exists():
            load(folder / "prompt")
        state = load_state(folder / "state")
        if (state["step"] if state else 0) < ended.kept.get("state", 0):
            wrong.append("the state is older than it was")
        if (folder / "metrics.jsonl").exists():
            read_metrics(folder / "metrics.jsonl")
            text = (folder / "metrics.jsonl").read_text()  # empty: its first line was taken back
            if not killed and text and not text.endswith("}\n"):
                wrong.append("metrics.jsonl has half a line")
    except RecipeError as error:
        wrong.append(str(error))
    return wrong
