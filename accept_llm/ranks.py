"""This process among the ranks of its run, as the environment that its launcher set says, and the
signal it gets when its parent dies.
"""

import ctypes
import os
import re
import signal
import sys
import zlib

from accept_llm.errors import RecipeError

_OF_SRUN = ("STEP_NUM_TASKS", "PROCID", "LOCALID", "STEP_NODELIST", "JOB_ID", "STEP_ID")


def join_srun() -> None:
    """Makes this process the rank that it is among the tasks of an `srun` of several: RANK and the
    like, for torch, from what srun sets. Nothing where another launcher has set them; RecipeError
    where srun's are not all there."""
    given = {name: os.environ.get(f"SLURM_{name}", "") for name in _OF_SRUN}
    if is_rank() or given["STEP_NUM_TASKS"] in ("", "1"):
        return
    missing = [f"SLURM_{name}" for name, value in given.items() if not value]
    if missing:
        got = f"SLURM_STEP_NUM_TASKS: got {given['STEP_NUM_TASKS']!r} without {', '.join(missing)}"
        raise RecipeError([f"{got}; allowed: what srun sets for each task, or none of it"])
    os.environ |= {"RANK": given["PROCID"], "LOCAL_RANK": given["LOCALID"]}
    os.environ["WORLD_SIZE"] = given["STEP_NUM_TASKS"]
    os.environ.setdefault("MASTER_ADDR", first_host(given["STEP_NODELIST"]))
    ids = zlib.crc32(f"{given['JOB_ID']}.{given['STEP_ID']}".encode())
    os.environ.setdefault("MASTER_PORT", str(20_000 + ids % 10_000))


def first_host(nodes: str) -> str:
    """The first of a list as Slurm writes it: `gpu[03-05,9]-ib,login` -> `gpu03-ib`."""
    first = re.match(r"([^,\[]*)(?:\[([^],-]*)[^]]*\])?([^,\[]*)", nodes)
    return "".join(part or "" for part in first.groups()) if first else nodes


def wants_cpu() -> bool:
    """Whether `accelerate launch --cpu` was asked for."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")


def is_rank() -> bool:
    """Whether a launcher has started this process as one of some ranks: RANK alone, which other
    programs set as well, says nothing."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def world_size() -> int:
    """How many ranks the launcher started: 1 where there is none."""
    return _whole("WORLD_SIZE") if is_rank() else 1


def is_first() -> bool:
    """Whether this process is rank 0, or the only one."""
    return not is_rank() or os.environ["RANK"] == "0"


def is_first_here() -> bool:
    """Whether it is the first of its machine's ranks, or the only one."""
    return not is_rank() or os.environ.get("LOCAL_RANK", os.environ["RANK"]) == "0"


def _whole(name: str) -> int:
    given = os.environ[name]
    if not given.isdecimal():
        raise RecipeError([f"{name}: got {given!r}; allowed: a whole number, as launchers set it"])
    return int(given)


def end_with_parent() -> None:
    """SIGTERM for this process when its parent dies. accelerate passes no signal on, and the ranks
    would train on without it; torchrun hands this one to the ranks, which save their state.

    It stays in force over exec. Linux only; elsewhere a signal must go to the process group.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
