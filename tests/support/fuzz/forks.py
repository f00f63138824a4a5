"""Runs commands in forks of a process that has every library loaded, with limits of time and
memory, so that a command costs a fraction of a second and leaves nothing behind in the next one.
"""

import io
import os
import resource
import signal
import sys
import traceback
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from support.commands import FOREIGN
from support.runs import FORKSERVER

SECONDS = 30  # of CPU time for a command
PATIENCE = 300  # seconds by the clock
MEMORY = 2 << 30  # bytes beyond the server's own
LOADED = (
    *("accept_llm.cli.main", "accept_llm.api", "accept_llm.plan.plan", "accept_llm.plan.show"),
    *("accept_llm.training.run", "accept_llm.engines.single", "accept_llm.data.inputs"),
    *("transformers.models.t5.modeling_t5", "transformers.models.llama.modeling_llama"),
    *("transformers.models.auto", "transformers.tokenization_utils_tokenizers"),
    *("transformers.generation.utils", "pyarrow.parquet", "matplotlib.pyplot", "sklearn.metrics"),
    *("huggingface_hub", "rich.console", "rich.table", "accelerate"),
)


@dataclass(frozen=True)
class Ended:
    """How a command ended; `memory` is what it had at most beyond the server's own."""

    code: int
    out: str
    err: str
    cpu_seconds: float
    memory: int


class Server:
    """A process that forks itself for every command it is given."""

    def __init__(self, scratch: Path):
        self.scratch = scratch
        self.connection, theirs = FORKSERVER.Pipe()
        self.process = FORKSERVER.Process(target=serve, args=(theirs, str(scratch)), daemon=True)
        self.process.start()
        theirs.close()

    def run(self, arguments: list[str], folder: Path, *, given: bytes = b"") -> Ended:
        """`accept-llm ARGUMENTS` in the folder, with `given` on standard input."""
        (self.scratch / "in").write_bytes(given)
        self.connection.send((arguments, str(folder)))
        code, seconds, memory = self.connection.recv()
        out, err = ((self.scratch / n).read_text("utf-8", "replace") for n in ("out", "err"))
        return Ended(code, out, err, seconds, memory)

    def stop(self) -> None:
        self.connection.close()
        self.process.join(60)


def serve(connection: Connection, scratch: str) -> None:
    """The body of the server: ends when the connection does."""
    for name in FOREIGN:
        os.environ.pop(name, None)
    own = {"ACCEPT_CACHE_DIR": f"{scratch}/cache", "HF_HOME": f"{scratch}/hub", "COLUMNS": "200"}
    # No command may reach for a network: pip is called for a GGUF file in a wheel.
    os.environ |= own | {"PIP_NO_INDEX": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    for name in LOADED:
        import_module(name)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while True:
        try:
            arguments, folder = connection.recv()
        except EOFError:
            return
        process = os.fork()
        if process == 0:
            _run(arguments, Path(folder), Path(scratch))
        _, status, usage = os.wait4(process, 0)
        seconds, memory = usage.ru_utime + usage.ru_stime, (usage.ru_maxrss - base) << 10
        connection.send((os.waitstatus_to_exitcode(status), seconds, memory))


def _run(arguments: list[str], folder: Path, scratch: Path) -> NoReturn:
    """The command, in the fork; what it raises is shown as Python shows it."""
    code = 1
    try:
        _limit()
        _connect(scratch)
        os.chdir(folder)
        sys.argv = ["accept-llm", *arguments]
        from accept_llm.cli.main import main

        main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _connect(scratch: Path) -> None:
    """Makes files of the three standard streams, which Python opens anew."""
    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, (name, flags) in enumerate((("in", os.O_RDONLY), ("out", write), ("err", write))):
        os.dup2(os.open(scratch / name, flags), number)
    streams = [io.FileIO(number, mode, closefd=False) for number, mode in enumerate("rww")]
    sys.stdin = io.TextIOWrapper(io.BufferedReader(streams[0]), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(streams[1]), encoding="utf-8")
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(streams[2]), encoding="utf-8", errors="backslashreplace"
    )


def _limit() -> None:
    """Kills a command that computes, waits or takes too much."""
    resource.setrlimit(resource.RLIMIT_CPU, (2 * SECONDS, 2 * SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    status = Path("/proc/self/status").read_text()
    held = int(status.split("VmData:")[1].split()[0]) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (held + 2 * MEMORY, held + 2 * MEMORY))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(PATIENCE)
