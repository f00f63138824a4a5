"""result.json: what was measured, and on what."""

import importlib.metadata
import platform
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from accept_llm.errors import RecipeError
from accept_llm.recipe.messages import parse_section
from accept_llm.storage import read_json

RESULT = "result.json"


PACKAGES = ("torch", "transformers", "accelerate", "safetensors", "numpy", "accept-llm")


class EngineUsed(BaseModel):
    """The engine of a run."""

    kind: str
    ranks: int
    device: str


class Result(BaseModel):
    """The content of result.json. Keys that are not known stay."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    folder: str
    model: str
    task: str
    validation: dict[str, float]
    """The scores of the best step."""
    test: dict[str, float]
    rows: dict[str, int]
    """Of each split."""
    row_digests: dict[str, str] = {}
    """SHA-256 of each split's examples, so that evaluate knows other rows."""
    steps: int
    best_step: int
    history: list[str] = []
    """What was changed where the run went on: other rows, more steps, another version."""
    trainable: dict[str, int]
    """Trained parameters of each group, and in all."""
    engine: EngineUsed
    frozen_bytes_per_rank: list[int]
    peak_memory_per_rank: list[dict[str, int]]
    """Bytes: `resident` on the host, `cuda` on the GPU."""
    seeds: dict[str, int]
    truncated_training_rows: dict[str, int] = {}
    """How many training rows lost their answer, by the limit that they met."""
    seconds: dict[str, float]
    python: str
    platform: str
    versions: dict[str, str]
    git_commit: str | None
    finished: str


def read_result(folder: Path) -> Result:
    """The result.json of a run folder; RecipeError where it is missing, and where a field is."""
    path = folder / RESULT
    try:
        data = read_json(path)
    except ValueError as error:
        raise RecipeError([f"run: {path} cannot be read ({error})"]) from None
    return parse_section(Result, data, where=f"run: {path} is damaged: ")


def environment() -> dict[str, Any]:
    """Versions, machine and git commit, for result.json."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a clone, not installed
            versions[name] = "not installed"
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "versions": versions,
        "git_commit": _git_commit(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _git_commit() -> str | None:
    """The commit of the clone whose top holds this package; None where it lies anywhere else, such
    as in a virtual environment inside another repository."""
    package = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(package), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    top, _, commit = done.stdout.strip().partition("\n")
    return commit or None if done.returncode == 0 and Path(top) == package.parent else None


def peak_memory() -> dict[str, int]:
    """Peak bytes of this process: resident on the host, allocated on the GPU."""
    import torch

    peak = {"resident": _peak_resident()}
    if torch.cuda.is_available():
        peak["cuda"] = torch.cuda.max_memory_allocated()
    return peak


def _peak_resident() -> int:
    """Linux's `ru_maxrss` starts from what the parent held: VmHWM is this program's alone."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
