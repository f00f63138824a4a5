"""The README's commands: those of "On your own data" are executed, the others understood."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from support.commands import ROOT, run_python
from support.runs import ENVIRONMENT

from accept_llm.cli.main import app
from accept_llm.recipe.recipe import load_recipe

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = "\n".join(re.findall(r"^    (.*)$", README, re.MULTILINE)).replace("\\\n", " ")
LINES = [line.partition(" #")[0].strip() for line in BLOCKS.splitlines()]
OWN_DATA = README[README.index("## On your own data") :]


def all_of(start: str) -> list[str]:
    """Commands that begin so, in blocks and in running text."""
    inline = re.findall(rf"`({re.escape(start)} [^`]+)`", README.replace("\n", " "))
    found = [line for line in (*LINES, *inline) if line.startswith(f"{start} ")]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("line", all_of("accept-llm"))
def test_every_command_is_one_with_these_options(line: str) -> None:
    name, *words = shlex.split(line.partition(" > ")[0])
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    if words:  # else it is only named
        command.make_context(name, words)
    check_recipes(words)


def check_recipes(words: list[str]) -> None:
    """Recipes that are named are there, and take the changes behind them."""
    changes = [w for w in words if re.fullmatch(r"[a-z_.]+=[^A-Z]*", w)]
    for word in words:
        if word.startswith("recipes/"):
            load_recipe(ROOT / word, changes)


@pytest.mark.parametrize(
    "line", [line for line in LINES if "launchers/" in line and "..." not in line]
)
def test_every_launcher_and_recipe_is_there(line: str) -> None:
    words = shlex.split(line)
    launchers = [word for word in words if word.startswith("launchers/")]
    assert [(ROOT / name).is_file() for name in launchers] == [True]
    check_recipes(words)


@pytest.mark.parametrize("target", [w.split()[1] for w in all_of("make")])
def test_every_target_of_make_is_there(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def shell(line: str, folder: Path) -> str:
    """What a command typed in a folder prints; it must succeed."""
    path = f"{Path(sys.executable).parent}:{ENVIRONMENT['PATH']}"
    here = ENVIRONMENT | {"PATH": path, "ACCEPT_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(
        line, shell=True, cwd=folder, env=here, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_on_your_own_data(tmp_path: Path, tiny_llama: Path) -> None:
    """Word for word, but for the model, which is tiny, and two steps."""
    blocks = re.findall(r"^```(yaml|python)\n(.*?)^```", OWN_DATA, re.MULTILINE | re.DOTALL)
    task, program = (next(text for kind, text in blocks if kind == k) for k in ("yaml", "python"))
    copy, *commands = [
        line for line in LINES if "mine" in line and not line.startswith("accept-llm plan")
    ]
    assert [line.split()[1] for line in commands[:3]] == ["validate", "train", "evaluate"]
    (tmp_path / "data").mkdir()
    for split, count in (("train", 30), ("dev", 8), ("test", 9)):
        rows = [f'"{i} + {i}, or what?",{2 * i + i % 2},{i % 2}' for i in range(count)]
        (tmp_path / "data" / f"{split}.csv").write_text("\n".join(["question,answer,label", *rows]))
    shell(copy, tmp_path)
    mine = yaml.safe_load((tmp_path / "mine.yaml").read_text()) | yaml.safe_load(task)
    mine["model"] = {"kind": "folder", "path": str(tiny_llama), "dtype": "fp32"}
    mine["task"]["max_length"] = 60
    mine["method"] = {"kind": "accept", "length": 4, "budget": 20}
    mine["train"] = {"steps": 2, "batch_size": 4}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mine))
    said = [shell(line, tmp_path) for line in commands]
    assert '"accuracy"' in said[2]
    assert '"probabilities": {"wrong": ' in said[3]
    done = run_python("-c", program, cwd=tmp_path)
    assert done.code == 0, done.err
    assert (tmp_path / "runs/mine-1/result.json").is_file()
