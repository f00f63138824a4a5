"""Peak memory of real runs against what `accept-llm plan` says of them.

python -m benchmarks.plan [--recipes smollm2_sst2 flan_t5_small_sst2] [--steps 20]

Each recipe trains some steps in processes of its own, on one and, under FSDP2, on two ranks of this
machine's CPU.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from accept_llm.plan.plan import make_plan
from accept_llm.recipe.recipe import load_recipe

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ("smollm2_sst2", "flan_t5_small_sst2")
FEW = ("task.validation_limit=100", "task.test_limit=100", "train.eval_every=100000")
STARTS = {
    "single": [sys.executable, "launchers/single_gpu.py"],
    "fsdp2": [
        *(sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu"),
        *("--num_processes", "2", "launchers/fsdp.py"),
    ],
}


def compare(recipe: str, engine: str, *, steps: int) -> tuple[float, float]:
    """Bytes of the fullest rank, planned and measured (peak resident)."""
    path = ROOT / "recipes" / f"{recipe}.yaml"
    with tempfile.TemporaryDirectory() as folder:
        changes = [*FEW, f"train.steps={steps}", f"output_dir={folder}", "name=run"]
        command = [*STARTS[engine], str(path), *changes]
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        result = json.loads((Path(folder) / "run" / "result.json").read_text())
    plan = make_plan(load_recipe(path, changes)[0], gpus=result["engine"]["ranks"], engine=engine)
    peaks = [rank["resident"] for rank in result["peak_memory_per_rank"]]
    return plan.chosen.needs.total, max(peaks)


def lines(recipes: list[str], steps: int) -> Iterator[str]:
    yield "| recipe | engine | planned, MB | measured, MB | ratio |\n|---|---|---|---|---|"
    for recipe in recipes:
        for engine in STARTS:
            planned, measured = compare(recipe, engine, steps=steps)
            numbers = f"{planned / 1e6:,.0f} | {measured / 1e6:,.0f} | {planned / measured:.2f}"
            yield f"| {recipe} | {engine} | {numbers} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    for line in lines(options.recipes, options.steps):
        print(line, flush=True)


if __name__ == "__main__":
    main()
