"""`accept-llm train RECIPE --nproc N`: ranks that the command starts itself."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.parity import assert_close_prompts, assert_parity
from support.runs import ENVIRONMENT, finish, metrics, start, write_recipe

TRAIN = {"steps": 20, "eval_every": 5, "save_every": 2, "warmup_steps": 3}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, tiny_llama) -> Path:
    return write_recipe(tmp_path_factory.mktemp("nproc"), tiny_llama, **TRAIN)


@pytest.fixture(scope="module")
def one_process(recipe) -> Path:
    assert finish(start(recipe, "name=one")) == [0]
    return recipe.parent / "runs" / "one"


def command(recipe: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "accept_llm", "train", str(recipe), *words]


def ended(recipe: Path, *words: str) -> subprocess.CompletedProcess:
    own = {"capture_output": True, "text": True, "timeout": 240, "cwd": recipe.parent}
    return subprocess.run(command(recipe, *words), env=ENVIRONMENT, check=False, **own)


def test_two_ranks_with_shards_equal_one_process(recipe, one_process):
    done = ended(recipe, "name=fsdp2", "--nproc", "2", "--engine", "fsdp2")
    assert done.returncode == 0, done.stderr
    assert_parity(recipe.parent / "runs" / "fsdp2", one_process, ranks=2)


def test_without_an_engine_each_rank_has_the_whole_model(recipe, one_process):
    done = ended(recipe, "name=ddp", "--nproc", "2")
    assert done.returncode == 0, done.stderr
    folder = recipe.parent / "runs" / "ddp"
    used = json.loads((folder / "result.json").read_text())["engine"]
    assert (used["kind"], used["ranks"]) == ("ddp", 2)
    assert_close_prompts(folder, one_process, tolerance=1e-4)


def test_a_mistake_is_said_once_and_last_before_ranks_start(recipe):
    done = ended(recipe, "name=x", "model.path=/no/model", "--nproc", "2", "--engine", "fsdp2")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: model.path: /no/model does not exist")
    assert done.stderr.count("error: ") == 1


def test_what_a_rank_alone_finds_is_the_last_line(recipe, tmp_path):
    """Bad rates of no use: a loss that is not finite stops every rank with exit code 1."""
    done = ended(recipe, "name=nan", "train.lr=1e30", "train.clip_norm=null", "--nproc", "2")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[-1].startswith("error: step "), lines[-3:]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["--engine", "fsdp2"],
        ["--nproc", "2", "--engine", "single"],
        ["--nproc", "2", "--engine", "x"],
    ],
)
def test_what_does_not_go_together_is_refused(recipe, words):
    done = ended(recipe, "name=x", *words)
    assert done.returncode == 2
    assert "allowed: --nproc N, with one of ddp, fsdp2, zero3" in done.stderr


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_reaches_the_ranks(recipe, number, code):
    name = f"stopped{code}"
    folder = recipe.parent / "runs" / name
    words = (f"name={name}", "train.steps=100000", "train.save_every=100000", "--nproc", "2")
    with subprocess.Popen(command(recipe, *words), env=ENVIRONMENT, cwd=recipe.parent) as process:
        path, until = folder / "metrics.jsonl", time.monotonic() + 120
        while not (path.exists() and len(path.read_text()) > 500) and time.monotonic() < until:
            time.sleep(0.1)
        os.kill(process.pid, number)
        assert process.wait(60) == code
    assert (folder / "state" / "state.pt").exists()
    assert max(line["step"] for line in metrics(folder, of="loss")) < 100_000


def test_ranks_run_no_file_of_the_current_folder(recipe):
    (recipe.parent / "tokenizers.py").write_text("raise SystemExit('the user file was run')\n")
    try:
        script = "from accept_llm.cli.main import main; main()"
        command = [sys.executable, "-P", "-c", script, "train", str(recipe), "name=safe"]
        done = subprocess.run(
            [*command, "train.steps=1", "--nproc", "2"],
            **{"env": ENVIRONMENT, "cwd": recipe.parent, "capture_output": True, "text": True},
            check=False,
        )
    finally:
        (recipe.parent / "tokenizers.py").unlink()
    assert done.returncode == 0, done.stderr
    assert "the user file was run" not in done.stderr


def test_a_rank_of_something_else_changes_nothing(recipe):
    """Containers set RANK, too; ours need WORLD_SIZE beside it."""
    own = {"RANK": "1", "LOCAL_RANK": "1"}
    words = (str(recipe), "name=foreign", "train.steps=1", "--nproc", "2")
    command = [sys.executable, "-m", "accept_llm", "train", *words]
    done = subprocess.run(
        command, env=ENVIRONMENT | own, cwd=recipe.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "2 steps" in done.stdout or "1 steps" in done.stdout
