"""Servers on this machine, each a process of its own: for the demo, the benchmark and the tests."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

READY = 120.0  # s until a server has its blocks


class LocalServer:
    """One server, started at once; its words go to `log`.

    `python` is that of the Petals environment, `options` are those of launchers/petals_server.py.
    It computes with one thread, on the CPU core `core` if that is given. `command` stands for
    `-m accept_llm swarm serve`.
    """

    def __init__(
        self,
        model: str | Path,
        *options: str,
        log: Path,
        python: str | Path = sys.executable,
        core: int | None = None,
        command: Sequence[str] | None = None,
    ):
        self.log = log
        serve = command or ("-m", "accept_llm", "swarm", "serve")
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [str(python), *serve, str(model), *options],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        if core is not None:
            os.sched_setaffinity(self.process.pid, {core})  # before it has made any thread

    def address(self, timeout: float = READY) -> str:
        """Waits until it serves; RuntimeError with its last words where it does not."""
        until = time.monotonic() + timeout
        while self.process.poll() is None and time.monotonic() < until:
            for line in self.log.read_text(errors="replace").splitlines():
                if line.startswith("address: "):
                    return line.removeprefix("address: ")
            time.sleep(0.2)
        words = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
        raise RuntimeError(f"the server is not ready (exit code {self.process.poll()}):\n{words}")

    @property
    def peer(self) -> str:
        """The server's id in the swarm."""
        return self.address().rsplit("/", 1)[1]

    def kill(self) -> None:
        """Kills the server with -9, as a machine that is switched off."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout: float = 30.0) -> None:
        """Ends the server so that it leaves its swarm first."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()


@contextmanager
def local_swarm(
    model: str | Path,
    parts: Sequence[str],
    *options: str,
    folder: Path,
    python: str | Path = sys.executable,
    pin: bool = False,
) -> Iterator[tuple[list[LocalServer], str]]:
    """A server for each of the `parts` ("0:15", ...), and the address of the first; all are stopped
    at the end. `pin`: each on a core of its own."""
    servers: list[LocalServer] = []
    try:
        peers: tuple[str, ...] = ()
        for number, part in enumerate(parts):
            core = number % (os.cpu_count() or 1) if pin else None
            given = ("--blocks", part, *peers, *options)
            log = folder / f"server-{number}.log"
            servers.append(LocalServer(model, *given, log=log, python=python, core=core))
            if not peers:
                peers = ("--peers", servers[0].address())
        for server in servers:
            server.address()
        yield servers, peers[1]
    finally:
        for server in servers:
            server.stop()
