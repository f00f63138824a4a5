"""Commands that write, each with a folder to write in, and trials of them: a command with a fault
at one of its points, what it left, and the same command once more without the fault.

A command runs in a fork of the warm server, through the command line's own entry point.
"""

import atexit
import io
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from support.faults import Fault, Point, Watch, install
from support.runs import FORKSERVER

WAIT = 120.0  # seconds for a command, on a busy machine


@dataclass(frozen=True)
class Scene:
    """A command and the folder that it writes in. `{}` in an argument is that folder's path.

    `begin` fills the folder before each trial; `again` is what a user types after a fault, where
    that is not the same command; `change` changes the process before the command begins.
    """

    name: str
    arguments: tuple[str, ...]
    begin: Callable[[Path], None]
    again: tuple[str, ...] = ()
    change: Callable[[], None] | None = None
    code: int = 0
    given: bytes = b""
    spare: str = "cache"
    """How the files begin that a command does without, or keeps in the cache instead."""
    faulty: str = ""
    """A pattern of how the files with faults begin; others have a scene of their own."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its code (-9: killed), its words, the points that it reached, and the
    steps whose adapter and state were whole by then."""

    code: int | None
    text: str
    points: list[Point]
    kept: dict[str, int] = field(default_factory=dict)


class Director:
    """A process that has loaded, and used once, what commands take long to load, and forks for
    each of them. It computes no gradient itself: autograd's threads do not live through a fork."""

    def __init__(self, model: Path):
        self.ours, theirs = FORKSERVER.Pipe()
        self.process = FORKSERVER.Process(target=_direct, args=(theirs, model), daemon=True)
        self.process.start()

    def play(self, stage: "Stage", arguments: list[str], fault: Fault | None) -> int:
        """The exit code of a command; -9 where it was killed."""
        self.ours.send((stage, arguments, fault))
        assert self.ours.poll(WAIT), f"{arguments} with {fault} still runs after {WAIT} s"
        return self.ours.recv()

    def stop(self) -> None:
        self.ours.send(None)
        self.process.join()


def _direct(pipe: Any, model: Path) -> None:
    _warm_up(model)
    while (order := pipe.recv()) is not None:
        child = os.fork()
        if child == 0:
            _play(*order)
        pipe.send(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _warm_up(model: Path) -> None:
    import datasets  # noqa: F401
    import torch
    import torch.utils.tensorboard
    from matplotlib.figure import Figure
    from transformers import AutoModelForCausalLM

    import accept_llm.training.run  # noqa: F401

    torch.set_num_threads(1)
    AutoModelForCausalLM.from_pretrained(model)
    figure = Figure(layout="constrained")
    figure.subplots(1, 2)[0].plot([1, 2], [1, 2])
    figure.savefig(io.BytesIO())


@dataclass(frozen=True)
class Stage:
    """Where a scene is played: `work` is watched, what is beside it is not."""

    scene: Scene
    place: Path

    @property
    def work(self) -> Path:
        return self.place / "work"

    def set_up(self) -> None:
        """The folder as it is before the command."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        self.scene.begin(self.work)

    def play(self, director: Director, *, fault: Fault | None = None, again: bool = False) -> Ended:
        """Runs the command."""
        words = self.scene.again if again and self.scene.again else self.scene.arguments
        arguments = [word.replace("{}", str(self.work)) for word in words]
        (self.place / "in").write_bytes(self.scene.given)
        (self.place / "tmp").mkdir(exist_ok=True)
        code = director.play(self, arguments, fault)
        lines = [json.loads(line) for line in (self.place / "log").read_text().splitlines()]
        kept = {key: step for line in lines if isinstance(line, dict) for key, step in line.items()}
        points = [Point(*line) for line in lines if isinstance(line, list)]
        return Ended(code, (self.place / "out").read_text(), points, kept)


def _play(stage: Stage, arguments: list[str], fault: Fault | None) -> NoReturn:
    """A command, in a process of its own that ends with it."""
    place = stage.place
    for number, name in ((0, "in"), (1, "out"), (2, "out")):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND if number else os.O_RDONLY
        if number == 1:
            (place / name).unlink(missing_ok=True)
        os.dup2(os.open(place / name, flags), number)
    sys.stdin = os.fdopen(0)
    caches = {"ACCEPT_CACHE_DIR": stage.work / "cache", "TMPDIR": place / "tmp"}
    os.environ |= {name: str(path) for name, path in caches.items()} | {"COLUMNS": "200"}
    tempfile.tempdir = None
    if stage.scene.change:
        stage.scene.change()
    (place / "log").unlink(missing_ok=True)
    log = os.open(place / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    _keep(log)
    install(Watch(str(stage.work), log, fault))
    from accept_llm.cli.main import app

    code = 1
    try:
        app(arguments)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


def _keep(log: int) -> None:
    """Has each adapter and state that is whole on the disk noted in the log."""
    from accept_llm.training import trainer

    def noted(real: Callable[..., None], key: str, step: Callable[..., int]) -> Callable[..., None]:
        def call(*args: Any, **kwargs: Any) -> None:
            real(*args, **kwargs)
            os.write(log, (json.dumps({key: step(*args, **kwargs)}) + "\n").encode())

        return call

    trainer.save_adapter = noted(trainer.save_adapter, "adapter", lambda _, **k: k["card"].step)
    trainer.save_state = noted(trainer.save_state, "state", lambda _, state: state["step"])
