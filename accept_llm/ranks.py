"""This process among the ranks of its run, as the environment that its launcher set says, and the
signal it gets when its parent dies.
"""

import ctypes
import os
import re
import signal
import sys


def join_srun() -> None:
    """Makes this process the rank that it is among the tasks of an `srun` of several: RANK and the
    like, for torch, from what srun sets. Nothing where another launcher has set them."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks == "1" or "RANK" in os.environ:
        return
    job, step = (int(os.environ.get(f"SLURM_{x}_ID", "0")) for x in ("JOB", "STEP"))
    set_by_srun = {
        "RANK": os.environ["SLURM_PROCID"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "WORLD_SIZE": tasks,
    }
    os.environ |= set_by_srun
    os.environ.setdefault("MASTER_ADDR", first_host(os.environ["SLURM_STEP_NODELIST"]))
    os.environ.setdefault("MASTER_PORT", str(20_000 + (31 * job + step) % 10_000))


def first_host(nodes: str) -> str:
    """The first of a list as Slurm writes it: `gpu[03-05,9]-ib,login` -> `gpu03-ib`."""
    first = re.match(r"([^,\[]*)(?:\[([^],-]*)[^]]*\])?([^,\[]*)", nodes)
    return "".join(part or "" for part in first.groups()) if first else nodes


def wants_cpu() -> bool:
    """Whether `accelerate launch --cpu` was asked for."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")


def world_size() -> int:
    """How many ranks the launcher started: 1 where there is none."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is rank 0, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def is_first_here() -> bool:
    """Whether it is the first of its machine's ranks, or the only one."""
    return os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")) == "0"


def end_with_parent() -> None:
    """SIGTERM for this process when its parent dies. accelerate passes no signal on, and the ranks
    would train on without it; torchrun hands this one to the ranks, which save their state.

    It stays in force over exec. Linux only; elsewhere a signal must go to the process group.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
