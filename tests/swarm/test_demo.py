"""`make swarm-demo`, on a smaller model: it trains on its own servers, and leaves none behind."""

import sys
from pathlib import Path

import psutil
import pytest
import yaml
from support.runs import ROOT, recipe_data
from swarms import PYTHON, Started

pytestmark = pytest.mark.swarm


def test_the_demo_gives_the_accuracy_of_one_process(tmp_path: Path, own_stories: Path) -> None:
    data = recipe_data(tmp_path, own_stories) | {"engine": {"kind": "petals"}}
    data["task"] = {"kind": "quickstart", "max_length": 64}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(data))
    runs = tmp_path / "out"
    ended = Started(
        *(sys.executable, ROOT / "launchers/swarm_demo.py", "--recipe", recipe, "--steps", "4"),
        *("--petals-python", PYTHON, "--output-dir", runs),
        log=tmp_path / "demo",
    ).wait()
    assert ended.code == 0, ended.err
    assert "5 blocks, complete" in ended.out
    assert "the swarm computes what" in ended.out
    assert "test accuracy after 4 steps: swarm 0." in ended.out
    assert len(list(runs.glob("swarm-demo-*/result.json"))) == 2
    lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    left = [line for line in lines if str(recipe) in line]  # one that has ended has no line
    assert left == []
