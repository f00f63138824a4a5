"""result.json: what was measured, and on what."""

import importlib.metadata
import json
import platform
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


PACKAGES = ("torch", "transformers", "accelerate", "safetensors", "numpy", "accept-llm")


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
    """The commit of the clone that this package lies in, if it does."""
    command = ["git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


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
