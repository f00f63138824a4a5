"""What tests of whole runs share: a small file task, its recipe, and ways to start a run.

A run can start in this process, in a fork of a clean server that has torch loaded already (so
that `kill -9` costs no new import), or through the real command line.
"""

import contextlib
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
GOOD = "lovely fast steady warm quiet strong kettle lamp pen walk".split()
BAD = "cold late wrong jams disappointed rain bill zip dripping soup".split()
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(  # names in tests/ are not importable there (Python < 3.13)
    [
        *(
            "accept_llm.cli.train",
            "accept_llm.api",
            "accept_llm.training.trainer",
            "accelerate",
            "matplotlib.pyplot",
        ),
        *(
            "transformers.models.llama.modeling_llama",
            "transformers.models.auto",
            "sklearn.metrics",
        ),
        *(
            "torch.distributed.fsdp",
            "torch.distributed.checkpoint",
            "transformers.tokenization_utils_tokenizers",
        ),
    ]
)


def write_reviews(path: Path, count: int, *, seed: int) -> None:
    """Rows of 2 to 12 words, good and bad in turn."""
    draw = random.Random(seed)
    with path.open("w") as file:
        for i in range(count):
            words = draw.choices([*(GOOD if i % 2 else BAD), "the", "was"], k=draw.randint(2, 12))
            file.write(json.dumps({"review": " ".join(words), "label": i % 2}) + "\n")


def recipe_data(folder: Path, model: Path, **train: Any) -> dict[str, Any]:
    """A recipe as a mapping: 24 + 10 + 11 rows, SCPP + SCAP, fp32; writes the rows once."""
    for name, count in (("train", 24), ("validation", 10), ("test", 11)):
        if not (folder / f"{name}.jsonl").exists():
            write_reviews(folder / f"{name}.jsonl", count, seed=count)
    task = {name: str(folder / f"{name}.jsonl") for name in ("train", "validation", "test")}
    rates = {"prepended": 3e-3, "added": 5e-4, "head": 1e-3}
    defaults = {"steps": 8, "batch_size": 5, "lr": rates, "eval_every": 4, "log_every": 1}
    return {
        "name": "run",
        "output_dir": str(folder / "runs"),
        "model": {"kind": "folder", "path": str(model), "dtype": "fp32"},
        "task": {
            **{"kind": "file", "text": ["review"], "label": "label", "max_length": 24},
            **{"labels": ["bad", "good"], **task},
        },
        "method": {"kind": "accept", "budget": 12, "length": 6, "prepended": {"subspaces": 5}},
        "train": defaults | train,
    }


def write_recipe(folder: Path, model: Path, **train: Any) -> Path:
    path = folder / "recipe_in.yaml"
    path.write_text(yaml.safe_dump(recipe_data(folder, model, **train)))
    return path


# --- starting a run ---------------------------------------------------------------------


def run_recipe(kind: str, path: str, overrides: list[str], resume: bool, rank: dict) -> None:
    """The body of a forked run; ends the process with the command's exit code."""
    import torch
    import typer

    from accept_llm.cli.train import train_with

    torch.set_num_threads(1)
    os.environ |= rank
    # The server's own stderr is not the one that pytest captures for this test.
    os.dup2(os.open(f"{path}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.stderr.fileno())
    try:
        train_with(kind, Path(path), overrides=overrides, resume=resume)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)


def start(path: Path, *overrides: str, resume: bool = False) -> BaseProcess:
    """One process on the CPU, forked from the clean server."""
    arguments = ("single", str(path), list(overrides), resume, {})
    process = FORKSERVER.Process(target=run_recipe, args=arguments)
    process.start()
    return process


def start_ranks(
    path: Path,
    *overrides: str,
    count: int,
    kind: str = "fsdp2",
    resume: bool = False,
    target: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
) -> list[BaseProcess]:
    """An engine's ranks on the CPU, as torchrun would start them; or `target`, with the recipe, the
    arguments and the rank's environment."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = []
    for rank in range(count):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        own |= address | {"ACCELERATE_USE_CPU": "true"}
        given: tuple[Any, ...] = (str(path), *arguments, own)
        if target is None:
            given = (kind, str(path), list(overrides), resume, own)
        ranks.append(FORKSERVER.Process(target=target or run_recipe, args=given))
        ranks[-1].start()
    return ranks


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def launch_command(
    path: Path, *overrides: str, count: int = 2, launcher: str = "fsdp"
) -> list[str]:
    """What a person types for a sharded run on the CPU."""
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu"]
    command += ["--num_processes", str(count), str(ROOT / "launchers" / f"{launcher}.py")]
    return [*command, str(path), *overrides]


def finish(*processes: BaseProcess, seconds: float = 300) -> list[int | None]:
    """Waits, and returns the exit codes; processes that hang are killed."""
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            kill(*processes)
            raise AssertionError(f"process {process.pid} still runs after {seconds} s")
    return [process.exitcode for process in processes]


def kill(*processes: BaseProcess) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid or 0, signal.SIGKILL)
    for process in processes:
        process.join()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# --- looking at a run -------------------------------------------------------------------


def metrics(folder: Path, *, of: str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that have the key `of`, such as loss or validation."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if of in line]


def wait_for_step(folder: Path, step: int, *processes: BaseProcess, seconds: float = 240) -> bool:
    """Waits until metrics.jsonl has the step; False when the run ended before."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        path = folder / "metrics.jsonl"
        if path.exists() and f'"step": {step},' in path.read_text():
            return True
        if not all(process.is_alive() for process in processes):
            return False
        time.sleep(0.005)
    raise AssertionError(f"{folder} did not reach step {step} in {seconds} s")


def losses(folder: Path) -> list[float]:
    """Of each logged step of a run."""
    return [line["loss"] for line in metrics(folder, of="loss")]


def result(folder: Path) -> dict[str, Any]:
    """A run's result.json."""
    return json.loads((folder / "result.json").read_text())
