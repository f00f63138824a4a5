"""Starts the processes of a sharded run where `accelerate launch` does not.

On GPUs accelerate starts one process a rank and sets RANK. On a CPU (`--cpu`), and for one
process, it starts a single one and sets no RANK (accelerate 1.15, `simple_launcher`); the count
is then only in its own command line. Knows nothing of recipes or engines.
"""

import ctypes
import os
import signal
import sys

from accept_llm.recipe_errors import RecipeError

HOW = "accelerate launch --num_processes N {} RECIPE (with --cpu on a CPU)"


def wants_cpu() -> bool:
    """Whether `accelerate launch --cpu` was asked for."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")


def ensure_ranks(engine_kind: str) -> None:
    """Returns in a process that is a rank; else becomes torchrun, which starts the ranks."""
    if "RANK" in os.environ:
        return
    count = _asked_of_accelerate(engine_kind, HOW.format(sys.argv[0]))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={count}", *sys.argv]
    _die_with_parent()
    # In place of this process, so that exit codes pass through.
    os.execv(sys.executable, command)


def _die_with_parent() -> None:
    """SIGTERM for this process when accelerate dies: accelerate passes no signal on, and the
    ranks would train on without it. torchrun hands it to the ranks, which save their state.

    It stays in force over exec. Linux only; elsewhere a signal must go to the process group.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _asked_of_accelerate(kind: str, how: str) -> int:
    import psutil

    parent = psutil.Process().parent()
    words = parent.cmdline() if parent else []
    if "launch" not in words:
        raise RecipeError([f"engine: {kind} needs its processes started for it: {how}"])
    from accelerate.commands.launch import launch_command_parser  # it loads torch

    asked = launch_command_parser().parse_args(words[words.index("launch") + 1 :])
    if (asked.num_machines or 1) > 1:
        raise RecipeError([f"engine: {kind} on CPUs of several machines needs torchrun"])
    # accelerate sets MASTER_ADDR for more than one process; a config file may have said so.
    if asked.num_processes is None and "MASTER_ADDR" in os.environ:
        raise RecipeError([f"engine: the number of processes is not on the command line: {how}"])
    return asked.num_processes or 1
