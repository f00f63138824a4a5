"""Starts the processes of a run on several ranks: for `--nproc`, and where `accelerate launch`
does not.

On GPUs accelerate starts one process a rank and sets RANK. On a CPU (`--cpu`), and for one
process a machine, it starts a single one and sets no RANK (accelerate 1.15, `simple_launcher`);
the counts are then only in its own command line. Knows nothing of recipes or engines.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from accept_llm.errors import RecipeError
from accept_llm.ranks import end_with_parent, is_rank, join_srun
from accept_llm.training.signals import STOPS

_WITH_COMMAND = ("accelerate", "accelerate.commands.accelerate_cli", "accelerate_cli")
_ALONE = ("accelerate-launch", "accelerate.commands.launch")
RUN = "accept_llm"
HOW = "accelerate launch --num_processes N {} RECIPE (with --cpu on a CPU)"
MACHINES = "on each of several: --num_machines M --machine_rank R of: {}"


def join_launcher() -> None:
    """Finds out early, before anything is said, that srun has started this process as a rank. Under
    `srun accelerate launch` it has started accelerate."""
    if "SLURM_STEP_NUM_TASKS" in os.environ and arguments_of_launch(_parent()) is None:
        join_srun()


def ensure_ranks(engine_kind: str) -> None:
    """Returns in a process that is a rank; else becomes torchrun, which starts this machine's
    ranks."""
    if is_rank():
        return
    how = HOW.format(sys.argv[0])
    asked = _asked_of_accelerate(engine_kind, how)
    command = [sys.executable, "-m", "torch.distributed.run", *_of_torchrun(asked, how)]
    end_with_parent()
    _run_no_file_of_the_folder()
    # In place of this process, so that exit codes pass through.
    os.execv(sys.executable, [*command, *sys.argv])


def started_here() -> bool:
    """Whether this process is a rank that `run_ranks` has started."""
    return os.environ.get("TORCHELASTIC_RUN_ID") == RUN


def run_ranks(count: int) -> int:
    """This command once more, as `count` ranks on this machine; the exit code of the first rank
    that failed, 128 and the number where a signal ended it, else 0."""
    import logging

    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # A rank's own message is the last thing on the screen.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    _run_no_file_of_the_folder()
    _pass_signals_on()
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):  # of something else
        os.environ.pop(name, None)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        max_restarts=0,
        run_id=RUN,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        signals_to_handle="SIGQUIT",
    )
    try:
        elastic_launch(config, sys.executable)("-m", "accept_llm", *sys.argv[1:])
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code
    except SignalException as stop:
        return 128 + stop.sigval
    return 0


def _pass_signals_on() -> None:
    """To the ranks, which end after their step; they have sessions of their own, which no terminal
    reaches. Without a rank yet this process ends."""
    import psutil

    def pass_on(number: int, _: object) -> None:
        reached = 0
        for child in psutil.Process().children():
            with suppress(psutil.Error):  # it has ended
                if "accept_llm" in child.cmdline():
                    child.send_signal(number)
                    reached += 1
        if not reached:
            sys.exit(128 + number)

    for number in STOPS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, pass_on)


def _run_no_file_of_the_folder() -> None:
    """Keeps Python from looking for modules in the current folder of the ranks, unless the package
    itself is there (a clone that is not installed)."""
    if Path(__file__).resolve().parents[2] != Path.cwd():
        os.environ.setdefault("PYTHONSAFEPATH", "1")


def _asked_of_accelerate(kind: str, how: str) -> argparse.Namespace:
    """The arguments of the `accelerate launch` that started this process."""
    asked = arguments_of_launch(_parent())
    if asked is None:
        raise RecipeError([f"engine: {kind} needs its processes started for it: {how}"])
    from accelerate.commands.launch import launch_command_parser  # it loads torch

    return launch_command_parser().parse_args(asked)


def _parent() -> list[str]:
    """The command line that started this process."""
    import psutil

    parent = psutil.Process().parent()
    return parent.cmdline() if parent else []


def arguments_of_launch(words: Sequence[str]) -> list[str] | None:
    """What stands behind `accelerate launch`, `accelerate-launch`, or either as a module, in a
    command line; None where it is another program's."""
    for number, word in enumerate(words):
        name = Path(word).name.removesuffix(".exe").removesuffix(".py")
        if name in _WITH_COMMAND and list(words[number + 1 : number + 2]) == ["launch"]:
            return list(words[number + 2 :])
        if name in _ALONE or word.endswith("accelerate/commands/launch.py"):
            return list(words[number + 1 :])
    return None


def _of_torchrun(asked: argparse.Namespace, how: str) -> list[str]:
    """torchrun's arguments for the same ranks."""
    # accelerate sets MASTER_ADDR for more than one process; a config file may have said so.
    address = os.environ.get("MASTER_ADDR")
    if asked.num_processes is None and address is not None:
        raise RecipeError([f"engine: the number of processes is not on the command line: {how}"])
    if asked.num_machines is None and address not in (None, "127.0.0.1"):
        message = f"--num_machines is not on the command line, but MASTER_ADDR is {address}"
        raise RecipeError([f"engine: {message}; {MACHINES.format(how)}"])
    count, machines = asked.num_processes or 1, asked.num_machines or 1
    if machines == 1:
        return ["--standalone", f"--nproc_per_node={count}"]
    if count % machines or asked.machine_rank not in range(machines):
        message = f"got --num_processes {count}, in all, and --machine_rank {asked.machine_rank}"
        allowed = f"a multiple of {machines}, and 0 to {machines - 1}"
        raise RecipeError([f"engine: {message}; allowed with {machines} machines: {allowed}"])
    # accelerate sets both, from its command line or its config file.
    there = [f"--master_{x}={os.environ[f'MASTER_{x.upper()}']}" for x in ("addr", "port")]
    here = [f"--nnodes={machines}", f"--node_rank={asked.machine_rank}"]
    return [*here, *there, f"--nproc_per_node={count // machines}"]
