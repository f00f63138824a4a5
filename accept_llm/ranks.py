"""This process among the ranks of its run, as the environment that its launcher set says, and the
signal it gets when its parent dies.
"""

import ctypes
import os
import signal
import sys


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
