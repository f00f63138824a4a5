"""Which commit a result names."""

import shutil
import subprocess
import sys
from pathlib import Path

from support.commands import ROOT

SAY = "from accept_llm.runs.result import environment; print(environment()['git_commit'])"


def commit_in(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SAY], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_another_repository_around_the_package_is_not_its_own(tmp_path: Path) -> None:
    inside = tmp_path / "venv" / "site-packages"
    shutil.copytree(ROOT / "accept_llm", inside / "accept_llm")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "theirs"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    assert commit_in(inside) == "None"


def test_a_clone_is_named(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "accept_llm", tmp_path / "accept_llm")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "ours"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert commit_in(tmp_path) == head.stdout.strip()
