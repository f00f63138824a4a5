"""Several machines, by accelerate's own flags: two launchers on loopback, and what is refused."""

import os
import subprocess
import time
from argparse import Namespace
from pathlib import Path

import pytest
from support.parity import assert_same_training, trained
from support.runs import (
    ENVIRONMENT,
    FORKSERVER,
    finish,
    free_port,
    launch_command,
    result,
    run_recipe,
    start,
    write_recipe,
)

from accept_llm.cli.processes import _of_torchrun, arguments_of_launch
from accept_llm.errors import RecipeError
from accept_llm.ranks import first_host, join_srun

TRAIN = {"steps": 20, "eval_every": 5, "warmup_steps": 3}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, tiny_llama) -> Path:
    return write_recipe(tmp_path_factory.mktemp("machines"), tiny_llama, **TRAIN)


def launch_on(machine: int, path: Path, port: int, *overrides: str) -> subprocess.Popen:
    """What is typed on one of two machines with two ranks each."""
    command = launch_command(path, *overrides, count=4)
    at = command.index("launch") + 1
    command[at:at] = ["--num_machines", "2", "--machine_rank", str(machine)]
    command[at:at] = ["--main_process_ip", "127.0.0.1", "--main_process_port", str(port)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=ENVIRONMENT, **pipes)


def test_two_machines_equal_one_process(recipe):
    """Each holds a copy of the weights; the second one is late, and finds no folder yet."""
    changes = ("name=two", "engine.kind=fsdp2", "engine.shard_size=2")
    folder, port, machines = recipe.parent / "runs" / "two", free_port(), []
    try:
        machines.append(launch_on(0, recipe, port, *changes))
        time.sleep(20)
        assert not folder.exists()
        machines.append(launch_on(1, recipe, port, *changes))
        said = [machine.communicate(timeout=400)[1] for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert [machine.returncode for machine in machines] == [0, 0], said
    one = trained(recipe, "single")
    assert_same_training(folder, one, rel=1e-4)
    (whole,) = result(one)["frozen_bytes_per_rank"]
    assert result(folder)["frozen_bytes_per_rank"] == [whole / 2] * 4


def asked(**given: object) -> Namespace:
    names = ("num_processes", "num_machines", "machine_rank")
    return Namespace(**(dict.fromkeys(names) | given))


def test_what_torchrun_is_told(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    alone = ["--standalone", "--nproc_per_node=1"]
    assert _of_torchrun(asked(), "HOW") == alone
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    two = _of_torchrun(asked(num_processes=8, num_machines=2, machine_rank=1), "HOW")
    want = "--nnodes=2 --node_rank=1 --master_addr=10.0.0.1 --master_port=29500 --nproc_per_node=4"
    assert two == want.split()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_machines": 2}, "the number of processes is not on the command line"),
        ({"num_processes": 2}, "--num_machines is not on the command line, but MASTER_ADDR is 10"),
        (
            {"num_processes": 3, "num_machines": 2, "machine_rank": 0},
            "got --num_processes 3, in all, and --machine_rank 0; allowed with 2 machines: a "
            "multiple of 2, and 0 to 1",
        ),
        ({"num_processes": 2, "num_machines": 2}, "got .*--machine_rank None; allowed with 2"),
        ({"num_processes": 2, "num_machines": 2, "machine_rank": 2}, "--machine_rank 2; allowed"),
    ],
)
def test_machines_that_do_not_fit_are_refused(monkeypatch, given, said):
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    with pytest.raises(RecipeError, match=said):
        _of_torchrun(asked(**given), "HOW")


def test_resuming_from_a_folder_that_machines_do_not_share_is_refused(recipe):
    assert finish(start(recipe, "name=apart")) == [0]
    first, second = start_ranks_apart(recipe, "name=apart")
    assert finish(first, second) == [2, 2]
    said = Path(f"{recipe}.err").read_text()
    assert said.count("error:") == 2  # on the screen of each machine
    assert "output_dir: the ranks find states of the steps [20, 0]; allowed: a folder" in said


def start_ranks_apart(path: Path, *overrides: str) -> list:
    """Two ranks, each the first of its machine, with a folder of its own for its runs."""
    ranks, port = [], str(free_port())
    for rank in range(2):
        own = {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": port}
        own |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}
        there = [f"output_dir={path.parent / 'elsewhere'}"] if rank else []
        given = ("fsdp2", str(path), [*overrides, *there], True, own)
        ranks.append(FORKSERVER.Process(target=run_recipe, args=given))
        ranks[-1].start()
    return ranks


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("login", "login"),
        ("gpu[03-05,9]", "gpu03"),
        ("gpu[7,9]-ib,login", "gpu7-ib"),
        ("a1,b[2-3]", "a1"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_the_first_of_slurms_machines(nodes, first):
    assert first_host(nodes) == first


def test_two_tasks_of_srun_equal_one_process(recipe):
    """By the variables that srun gives each of its tasks, and no other launcher."""
    ranks = []
    for rank in range(2):
        own = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_STEP_NUM_TASKS": "2"}
        own |= {"SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": str(os.getpid())}
        own |= {"SLURM_STEP_ID": "0", "ACCELERATE_USE_CPU": "true"}
        given = ("fsdp2", str(recipe), ["name=srun"], False, own)
        ranks.append(FORKSERVER.Process(target=run_recipe, args=given))
        ranks[-1].start()
    assert finish(*ranks) == [0, 0]
    folder = recipe.parent / "runs" / "srun"
    assert result(folder)["engine"]["ranks"] == 2
    assert_same_training(folder, trained(recipe, "single"), rel=1e-4)


def test_srun_of_one_task_or_with_another_launcher_changes_nothing(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    join_srun()
    assert "RANK" not in os.environ
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(
        RecipeError, match="SLURM_STEP_NUM_TASKS: got '4' without SLURM_PROCID, SLU"
    ):
        join_srun()
    monkeypatch.setenv("RANK", "7")
    monkeypatch.setenv("WORLD_SIZE", "8")
    join_srun()
    assert os.environ["RANK"] == "7"
    assert "MASTER_PORT" not in os.environ


REST = ["--cpu", "--num_processes", "2", "launchers/fsdp.py", "launch.yaml"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["/v/bin/python", "/v/bin/accelerate", "launch", *REST], REST),
        (["/v/bin/python3.11", "/v/bin/accelerate-launch", *REST], REST),
        (["python", "-m", "accelerate.commands.launch", *REST], REST),
        (["python", "-m", "accelerate.commands.accelerate_cli", "launch", *REST], REST),
        (["python", "/v/lib/accelerate/commands/launch.py", *REST], REST),
        (["C:/v/Scripts/accelerate.exe", "launch", *REST], REST),
        (["bash", "launch", "x.sh"], None),
        (["python", "train.py", "launch"], None),
        (["accelerate", "config"], None),
        ([], None),
    ],
)
def test_which_command_line_is_accelerates(words, found):
    assert arguments_of_launch(words) == found
