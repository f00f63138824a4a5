"""Faults at the calls by which a command writes below a folder: each call is a point, with a name
that is the same in every run, and at one of them the call fails, or the process is killed.

Opening, renaming, removing and the like are seen by Python's audit hook, so that no library passes
by unseen; files that Python writes get a raw file of our own, whose `write` is the system's. The
two libraries that write by themselves, safetensors and tokenizers, have a place each (`NATIVE`).
"""

import builtins
import errno
import io
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FAULTS = ("ENOSPC", "EIO", "EACCES", "FULL", "KILL")
"""The three errors, each once; a disk that stays full from the point on; and SIGKILL."""
GROWS = ("open", "mkdir", "write")  # what needs room on the disk
RANDOM = [
    (re.compile(r"(?<=\.)[0-9a-f]{8}(?=/|$)"), "~"),  # our drafts
    (re.compile(r"[0-9a-f]{64}|(?<=-)[0-9a-f]{12}(?=[/.]|$)"), "~"),  # keys of the cache
    (re.compile(r"events\.out\.tfevents\..*"), "events"),
    (re.compile(r"(?<=/)tmp\w+"), "tmp"),
]


class Point(NamedTuple):
    """The `count`-th call of its kind for a file, named below the watched folder."""

    call: str
    file: str
    count: int


@dataclass(frozen=True)
class Fault:
    """What happens at a point."""

    point: Point
    kind: str

    def __str__(self) -> str:
        return f"{self.kind} at {self.point.call} {self.point.file} #{self.point.count}"


def plain(name: str) -> str:
    """A file's name without what differs from run to run."""
    for pattern, word in RANDOM:
        name = pattern.sub(word, name)
    return name


def top(name: str) -> str:
    """The folder that stands for the disk of a file."""
    return name.split("/")[0]


def faults_at(point: Point) -> list[Fault]:
    """All that are tried at a point; a disk that is full fails only what needs room."""
    return [Fault(point, kind) for kind in FAULTS if kind != "FULL" or point.call in GROWS]


@dataclass
class Watch:
    """Sees the calls below `folder`, writes a line of JSON for each to the descriptor `log`, and
    has its fault happen."""

    folder: str
    log: int
    fault: Fault | None = None
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    full: bool = False

    def name(self, path: Any, descriptor: int = -1) -> str | None:
        """A path, or an open file's number, below the folder; None where it lies elsewhere."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        path = os.fsdecode(path)
        if descriptor >= 0 and not os.path.isabs(path):
            path = os.path.join(os.readlink(f"/proc/self/fd/{descriptor}"), path)
        path = os.path.abspath(path)
        if path != self.folder and not path.startswith(f"{self.folder}/"):
            return None
        return plain(os.path.relpath(path, self.folder))

    def reach(self, call: str, name: str | None) -> OSError | None:
        """Counts a call; gives the error that it is to end with. A kill is left to `die`."""
        if name is None:
            return None
        self.seen[call, name] += 1
        point = Point(call, name, self.seen[call, name])
        os.write(self.log, (json.dumps(point) + "\n").encode())
        if self.full and call in GROWS and self.fault and top(name) == top(self.fault.point.file):
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.fault is None or self.fault.point != point:
            return None
        self.full = self.fault.kind == "FULL"
        number = getattr(errno, "ENOSPC" if self.full else self.fault.kind, 0)
        return OSError(number, os.strerror(number))

    def check(self, call: str, name: str | None) -> None:
        """A call that happens whole or not at all."""
        error = self.reach(call, name)
        if error is not None:
            self.die(error)
            raise error

    def die(self, error: OSError) -> None:
        """Kills the process, where that is the fault."""
        if error.errno == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        """Python's audit hook; an error that is raised here is the call's own."""
        if event == "open" and isinstance(args[2], int) and args[2] & WRITES:
            self.check("open", None if isinstance(args[0], int) else self.name(args[0]))
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.chmod"):
            self.check(event[3:], self.name(args[0], args[-1]))
        elif event in ("os.rename", "os.link", "os.symlink"):
            self.check(event[3:], self.name(args[1]))
        elif event == "os.truncate":
            self.check("truncate", self.name(args[0]))


# --- the calls that no audit hook sees --------------------------------------------------


class RawFile(io.FileIO):
    """A file below the watched folder. At a fault half of what is given is written, as a disk does
    that fills up: the call says how much, and the next one fails."""

    watch: Watch
    name_below: str
    failing: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        error, self.failing = self.failing or self.watch.reach("write", self.name_below), None
        if error is None:
            return super().write(view)
        half = len(view) // 2
        super().write(view[:half])
        self.watch.die(error)
        if not half:
            raise error
        self.failing = error
        return half

    def truncate(self, size: int | None = None) -> int:
        self.watch.check("truncate", self.name_below)
        return super().truncate(size)


def _opener(watch: Watch) -> Callable[..., Any]:
    real = io.open

    def opened(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
        name = None if isinstance(file, int) or mode.strip("bt") == "r" else watch.name(file)
        if name is None:
            return real(file, mode, buffering, *args, **kwargs)
        raw = RawFile(file, mode.replace("b", "").replace("t", ""), opener=kwargs.get("opener"))
        raw.watch, raw.name_below = watch, name
        if buffering == 0:
            return raw
        buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
        if "b" in mode:
            return buffered
        names = ("encoding", "errors", "newline")
        text = dict(zip(names, args, strict=False)) | {n: kwargs[n] for n in names if n in kwargs}
        return io.TextIOWrapper(buffered, **text, line_buffering=buffering == 1)

    return opened


def _native(
    watch: Watch, path: Any, *, write: Callable[[], Any], failure: Callable[[str], Exception]
) -> Any:
    """A library's own writing of a file; `failure` makes its error of the words of Rust's."""
    name = watch.name(path)
    error = watch.reach("open", name) or watch.reach("write", name)
    done = write()
    if error is not None:
        os.truncate(path, os.path.getsize(path) // 2)
        watch.die(error)
        raise failure(f"{error.strerror} (os error {error.errno})")
    return done


def _watch_safetensors(watch: Watch) -> None:
    import safetensors.torch
    from safetensors import SafetensorError

    real = safetensors.torch.serialize_file

    def failure(text: str) -> Exception:
        return SafetensorError(f"Error while serializing: I/O error: {text}")

    def serialize_file(tensors: Any, filename: Any, *args: Any, **kwargs: Any) -> None:
        def write() -> None:
            real(tensors, filename, *args, **kwargs)

        _native(watch, filename, write=write, failure=failure)

    safetensors.torch.serialize_file = serialize_file


def _watch_tokenizers(watch: Watch) -> None:
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

    real = TokenizersBackend._save_pretrained

    def save(self: Any, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        def write() -> Any:
            return real(self, save_directory, *args, **kwargs)

        path = os.path.join(save_directory, "tokenizer.json")
        return _native(watch, path, write=write, failure=Exception)

    TokenizersBackend._save_pretrained = save


NATIVE = (_watch_safetensors, _watch_tokenizers)


def install(watch: Watch) -> None:
    """Watches this process from here on; there is no way back."""
    for name in "fsync", "write":
        real = getattr(os, name)

        def call(descriptor: int, *args: Any, name: str = name, real: Any = real) -> Any:
            if descriptor != watch.log:
                watch.check(name, watch.name(descriptor))
            return real(descriptor, *args)

        setattr(os, name, call)
    for watch_library in NATIVE:
        watch_library(watch)
    io.open = builtins.open = _opener(watch)
    sys.addaudithook(watch.audit)
