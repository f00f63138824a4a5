"""What the swarm tests share: commands in the environment of Petals, and in this one."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from support.runs import ENVIRONMENT, ROOT, losses

from accept_llm.swarm.local import LocalServer

PYTHON = Path(os.environ.get("ACCEPT_PETALS_PYTHON", ROOT / ".venv-petals/bin/python"))
HERE = Path(__file__).resolve().parent
QUICK = {"connect_timeout": 8, "request_timeout": 30, "retries": 2, "wait": 15}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float


class Started:
    """A command that runs; what it says goes to files beside `log`."""

    def __init__(self, *command: str | Path, log: Path, **env: str):
        self.out, self.err = log.with_suffix(".out"), log.with_suffix(".err")
        self._began = time.monotonic()
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [str(part) for part in command], stdout=out, stderr=err, env=ENVIRONMENT | env
            )

    def wait(self, seconds: float = 200) -> Ended:
        """RuntimeError, with what it said, where it takes longer."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise RuntimeError(f"still running:\n{self.err.read_text()[-3000:]}") from None
        took = time.monotonic() - self._began
        return Ended(self.process.returncode, self.out.read_text(), self.err.read_text(), took)


def client(recipe: Path, *more: str, log: Path, **env: str) -> Started:
    """launchers/petals_client.py, as a person starts it."""
    return Started(PYTHON, ROOT / "launchers/petals_client.py", recipe, *more, log=log, **env)


def alone(recipe: Path, *more: str, log: Path) -> Started:
    """The same recipe by the single engine, in the main environment."""
    launcher = ROOT / "launchers/single_gpu.py"
    return Started(sys.executable, launcher, recipe, "engine=null", *more, log=log)


def on_petals(*arguments: str | Path, log: Path, **env: str) -> Started:
    """A python script or module in the environment of Petals."""
    return Started(PYTHON, *arguments, log=log, **env)


def write(data: dict[str, Any], path: Path, address: str, **engine: Any) -> Path:
    """The recipe for a swarm."""
    spec = {"kind": "petals", "peers": [address], **QUICK, **engine}
    path.write_text(yaml.safe_dump({**data, "engine": spec}))
    return path


def steps_done(run: Path) -> int:
    return len(losses(run)) if (run / "metrics.jsonl").exists() else 0


def wait_for_step(run: Path, step: int, *, of: Started, seconds: float = 120) -> None:
    """Until the run has done so many steps."""
    until = time.monotonic() + seconds
    while steps_done(run) < step:
        assert of.process.poll() is None, of.err.read_text()
        assert time.monotonic() < until, f"{steps_done(run)} steps"
        time.sleep(0.05)


class Servers:
    """Starts servers, and stops them all at the end."""

    def __init__(self, folder: Path):
        self.folder, self.all = folder, list[LocalServer]()

    def start(
        self, model: Path, blocks: str, *options: str, faulty: str | None = None
    ) -> LocalServer:
        """A server on fp32 weights; `faulty`: one whose answers are wrong (faulty_server.py)."""
        command = [str(HERE / "faulty_server.py"), faulty] if faulty else None
        server = LocalServer(
            model,
            *("--blocks", blocks, "--dtype", "fp32", *options),
            log=self.folder / f"server{len(self.all)}.log",
            python=PYTHON,
            command=command,
        )
        self.all.append(server)
        return server

    def chain(self, model: Path, *blocks: str) -> str:
        """A whole swarm; the address of its first server."""
        first = self.start(model, blocks[0])
        address = first.address()
        rest = [self.start(model, part, "--peers", address) for part in blocks[1:]]
        for server in rest:
            server.address()
        return address

    def twins(self, model: Path, *, faulty: str | None = None) -> tuple[str, list[LocalServer]]:
        """stories260k's blocks 0:3 on one server, whose address is given, and 3:5 on each of two;
        the second may be `faulty`."""
        address = self.start(model, "0:3").address()
        both = [
            self.start(model, "3:5", "--peers", address, faulty=fault) for fault in (None, faulty)
        ]
        for server in both:
            server.address()
        return address, both


@contextmanager
def servers_in(folder: Path) -> Iterator[Servers]:
    servers = Servers(folder)
    try:
        yield servers
    finally:
        for server in servers.all:
            server.kill()
