"""The machine that a plan is for: devices, memory and speed."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from accept_llm.plan.memory import Machine
from accept_llm.ranks import wants_cpu, world_size

CORE_RATE = 40e9  # FLOP/s of fp32 products on one core (measured: 76 to 82 GFLOP/s on two)
GPU_RATE = 60e12  # assumed, not measured; --rate says another


def find_launched() -> Machine:
    """What a rank that has been started has; those of one machine share its memory."""
    ranks = world_size()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    return replace(find_machine(here, None, rate=None), ranks=ranks)


# --- the machine ------------------------------------------------------------------------


def find_machine(gpus: int | None, gpu_memory: float | None, *, rate: float | None) -> Machine:
    """Finds out what this machine has, or takes the GPUs that were named."""
    found = [] if wants_cpu() or gpu_memory else _gpus_here()
    if gpu_memory or found:
        memory = gpu_memory or min(found)
        count = gpus or max(1, len(found))
        return Machine("cuda", memory, count, rate or GPU_RATE, _rate_source(rate, "assumed"))
    ranks, cores = gpus or 1, os.cpu_count() or 1
    # Ranks share the cores as they share the memory.
    memory, usual = host_memory() / ranks, CORE_RATE * cores / ranks
    message = _rate_source(rate, f"0.04 for each of {cores} cores")
    return Machine("cpu", memory, ranks, rate or usual, message, _has_bf16())


def _rate_source(rate: float | None, otherwise: str) -> str:
    return "--rate" if rate else f"{otherwise}; --rate says another"


def _gpus_here() -> list[float]:
    """Bytes of each GPU that this process may use, as nvidia-smi has them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shutil.which("nvidia-smi") is None or visible == "":
        return []
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    sizes = [float(x) * 2**20 for x in done.stdout.split()] if done.returncode == 0 else []
    return sizes[: len(visible.split(","))] if visible else sizes


def host_memory() -> float:
    """Bytes of this machine, or of the container that this process is in."""
    import psutil

    total = float(psutil.virtual_memory().total)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, float(limit)) if limit.isdigit() else total


def _has_bf16() -> bool:
    """Whether torch would multiply bf16 matrices on this CPU as they are."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return True
    return "avx512bw" in flags or "bf16" in flags
