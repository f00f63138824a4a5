"""python launchers/swarm_demo.py [--recipe R] [--steps N]: a local swarm of two servers, a prompt
trained on it, and the same steps in one process beside it. `make swarm-demo` calls it.

It runs in the main environment; servers and client use the python of the one with Petals.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from accept_llm.cli.console import plain_errors
from accept_llm.models.find import fetch_model
from accept_llm.recipe.recipe import load_recipe
from accept_llm.swarm.local import local_swarm

ROOT = Path(__file__).resolve().parent.parent
POINTS = 0.01  # the largest difference in accuracy


def main(
    recipe: Annotated[Path, typer.Option()] = ROOT / "recipes/smollm2_sst2_petals.yaml",
    steps: Annotated[int, typer.Option(min=1)] = 30,
    petals_python: Annotated[Path, typer.Option()] = ROOT / ".venv-petals/bin/python",
    output_dir: Annotated[Path, typer.Option()] = Path("runs"),
) -> None:
    """Trains on a local swarm of two servers, and in one process."""
    name = f"swarm-demo-{time.strftime('%Y%m%d-%H%M%S')}"
    changes = [f"train.steps={steps}", f"train.eval_every={steps}", f"output_dir={output_dir}"]
    changes += ["task.validation_limit=50", "task.test_limit=200"]
    if "ACCEPT_DATA_DIR" not in os.environ:
        print("ACCEPT_DATA_DIR is not set: the quick-start reviews in place of SST-2")
        changes += ["task.kind=quickstart"]
    with plain_errors():
        spec = load_recipe(recipe, changes)[0].model
        blocks = fetch_model(spec).layers
    half = (blocks + 1) // 2
    local = [sys.executable, "-m", "accept_llm"]
    subprocess.run([*local, "swarm", "record", str(recipe)], check=True)
    with tempfile.TemporaryDirectory() as scratch:
        print(f"two servers: blocks 0:{half} and {half}:{blocks}", flush=True)
        swarm = local_swarm(
            recipe,
            [f"0:{half}", f"{half}:{blocks}"],
            *("--dtype", spec.dtype),
            folder=Path(scratch),
            python=petals_python,
        )
        with swarm as (_, address):
            swarm_command = [str(petals_python), "-m", "accept_llm", "swarm"]
            subprocess.run([*swarm_command, "status", "--peers", address], check=True)
            client = [str(petals_python), str(ROOT / "launchers/petals_client.py"), str(recipe)]
            subprocess.run(
                [*client, *changes, f"name={name}", f"engine.peers={address}"], check=True
            )
    alone = [*local, "train", str(recipe), *changes, f"name={name}-single", "engine.kind=single"]
    subprocess.run(alone, check=True)
    ours, theirs = (accuracy(output_dir / run) for run in (name, f"{name}-single"))
    print(f"test accuracy after {steps} steps: swarm {ours:.4f}, one process {theirs:.4f}")
    if abs(ours - theirs) > POINTS:
        raise SystemExit(f"they differ by more than {POINTS:.0%}")


def accuracy(run: Path) -> float:
    return float(json.loads((run / "result.json").read_text())["test"]["accuracy"])


if __name__ == "__main__":
    typer.run(main)
