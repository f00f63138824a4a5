"""Runs the real command line in a process of its own, and measures what it costs."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What a developer's machine may have set and a command must not find by chance.
FOREIGN = ("ACCEPT_DATA_DIR", "ACCEPT_MODEL_DIR", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str
    cpu_seconds: float


def run_python(
    *args: str | Path, cwd: Path, given: bytes = b"", env: dict[str, str] | None = None
) -> Outcome:
    """`python ARGS` in the folder `cwd`, with `given` on standard input.

    Its files (output, caches) go to `cwd`; time is CPU time, so that a busy machine is fair.
    """
    scratch = cwd / ".command"
    scratch.mkdir(exist_ok=True)
    (scratch / "in").write_bytes(given)
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    own = {"PYTHONPATH": str(ROOT), "ACCEPT_CACHE_DIR": str(scratch), "HF_HOME": str(scratch)}
    own |= {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", "COLUMNS": "200", **(env or {})}
    with (
        (scratch / "in").open("rb") as stdin,
        (scratch / "out").open("wb") as stdout,
        (scratch / "err").open("wb") as stderr,
    ):
        command = [sys.executable, *map(str, args)]
        process = subprocess.Popen(
            command, cwd=cwd, env=kept | own, stdin=stdin, stdout=stdout, stderr=stderr
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    out, err = ((scratch / name).read_text(encoding="utf-8") for name in ("out", "err"))
    return Outcome(process.returncode, out, err, usage.ru_utime + usage.ru_stime)


def accept_llm(
    *args: str | Path, cwd: Path, given: bytes = b"", env: dict[str, str] | None = None
) -> Outcome:
    """`accept-llm ARGS`, as in `run_python`."""
    return run_python("-m", "accept_llm", *args, cwd=cwd, given=given, env=env)


def refused(outcome: Outcome, *texts: str, seconds: float = 4.0) -> str:
    """Checks that a command ended as a user's mistake must, with all `texts` in its message.

    The aim is 2 s on a quiet machine; CPU time was seen to double on a busy one.
    """
    assert outcome.code == 2, f"exit code {outcome.code}\n{outcome.out}\n{outcome.err}"
    assert outcome.err.startswith("error: "), outcome.err
    assert outcome.err.count("error: ") == 1, outcome.err
    assert "Traceback" not in outcome.err + outcome.out
    missing = [text for text in texts if text not in outcome.err]
    assert not missing, f"{missing} not in:\n{outcome.err}"
    assert outcome.cpu_seconds < seconds, f"{outcome.cpu_seconds:.2f} s of CPU time"
    return outcome.err
