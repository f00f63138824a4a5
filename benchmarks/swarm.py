"""A training step on a swarm of two servers on this machine, each pinned to a core of its own:
several requests in flight against one at a time, and what of a step is not computing; the single
engine's step beside them. `python -m benchmarks.swarm` with the main environment's python.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from accept_llm.models.find import fetch_model
from accept_llm.recipe.recipe import load_recipe
from accept_llm.swarm.local import LocalServer, local_swarm
from benchmarks.measure import load_line

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv-petals" / "bin" / "python"
SKIPPED = 2  # steps of each run that are not counted


@dataclass(frozen=True)
class Run:
    """Median seconds of a step, and CPU seconds a step: the servers' computing process, their other
    processes (serialisation, transport), the client."""

    step: float
    computing: float = 0.0
    passing_on: float = 0.0
    client: float = 0.0


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def spent(servers: Sequence[LocalServer], client: psutil.Process) -> tuple[float, float, float]:
    """CPU seconds so far, as Run has them."""
    computing = passing_on = 0.0
    for server in servers:
        main = psutil.Process(server.process.pid)
        computing += cpu_seconds(main)
        passing_on += sum(cpu_seconds(child) for child in main.children(recursive=True))
    mine = cpu_seconds(client) + sum(cpu_seconds(c) for c in client.children(recursive=True))
    return computing, passing_on, mine


def steps_of(folder: Path) -> list[float]:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:  # being written
            break
    return [values["seconds"] for values in found if "gradient_norm" in values]


def run(
    command: list[str | Path], recipe: Path, *, changes: list[str], servers: Sequence[LocalServer]
) -> Run:
    """Trains `args.steps` steps in a process of its own, and watches the processes' CPU time."""
    with tempfile.TemporaryDirectory() as out:
        name = Path(out) / "run"
        given = [*command, recipe, *changes, "name=run", f"output_dir={out}"]
        process = subprocess.Popen(
            [str(part) for part in given], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        client = psutil.Process(process.pid)
        first: tuple[float, float, float] | None = None
        last, count = (0.0, 0.0, 0.0), 0
        while process.poll() is None:
            done = len(steps_of(name))
            if done >= SKIPPED:
                now = spent(servers, client)
                first = first or now
                if done - SKIPPED > count:
                    last, count = now, done - SKIPPED
            time.sleep(0.02)
        if process.returncode:
            assert process.stderr is not None
            raise SystemExit(process.stderr.read().decode())
        seconds = statistics.median(steps_of(name)[SKIPPED:])
        each = [(b - a) / count for a, b in zip(first or last, last, strict=True)]
        return Run(seconds, *each)


def changes_of(args: argparse.Namespace) -> list[str]:
    steps = args.steps + SKIPPED
    return [
        *(f"train.steps={steps}", f"train.eval_every={steps}", "train.log_every=1"),
        *("task.validation_limit=2", "task.test_limit=2", f"train.batch_size={args.batch}"),
        "task.train_limit=1000",
        *args.change,
    ]


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/smollm2_sst2.yaml")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--in-flight", type=int, nargs="*", default=None)
    parser.add_argument("--change", nargs="*", default=[], help="changes to the recipe")
    args = parser.parse_args(given)
    recipe, _ = load_recipe(args.recipe, args.change)
    blocks = fetch_model(recipe.model).layers
    half, options = blocks // 2, ("--dtype", recipe.model.dtype)
    parts = [f"0:{half}", f"{half}:{blocks}"]
    alone: list[Run] = []
    found: dict[str, list[Run]] = {}
    print(load_line())
    with tempfile.TemporaryDirectory() as scratch:
        swarm = local_swarm(
            args.recipe, parts, *options, folder=Path(scratch), python=PYTHON, pin=True
        )
        with swarm as (servers, address):
            client: list[str | Path] = [PYTHON, ROOT / "launchers/petals_client.py"]
            engine = ["engine.kind=petals", f"engine.peers={address}"]
            sides = {"one at a time": ["engine.in_flight=1"], "in flight": []}
            if args.in_flight:
                sides = {f"{n} in flight": [f"engine.in_flight={n}"] for n in args.in_flight}
            for _ in range(args.rounds):
                for side, more in sides.items():
                    changes = [*changes_of(args), *engine, *more]
                    found.setdefault(side, []).append(
                        run(client, args.recipe, changes=changes, servers=servers)
                    )
                    print(f"{side}: {found[side][-1]}", flush=True)
    for _ in range(args.rounds):
        local: list[str | Path] = [sys.executable, ROOT / "launchers/single_gpu.py"]
        alone.append(run(local, args.recipe, changes=changes_of(args), servers=()))
    report(alone, found)


def report(alone: list[Run], found: dict[str, list[Run]]) -> None:
    """Medians over the rounds, and what of a step is not computing."""
    single = statistics.median(r.step for r in alone)
    print(f"single engine, {os.cpu_count()} cores: {single:.2f} s a step")
    base = 0.0
    for side, runs in found.items():
        mean: dict[str, Any] = {
            name: statistics.median(getattr(r, name) for r in runs)
            for name in ("step", "computing", "passing_on", "client")
        }
        base = base or mean["step"]
        print(
            f"{side}: {mean['step']:.2f} s a step ({mean['step'] / single:.2f} times the single "
            f"engine's; {base / mean['step']:.2f} times as fast as the first); CPU seconds: "
            f"{mean['computing']:.2f} servers computing, {mean['passing_on']:.2f} servers' "
            f"serialisation and transport, {mean['client']:.2f} client"
        )
        if side == next(iter(found)):
            rest = 1 - mean["computing"] / mean["step"]
            print(f"  of it network, serialisation, client and waiting: {rest:.1%}")


if __name__ == "__main__":
    main()
