"""The comparison of finished runs: pairs, their standard error, and the picture."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks import learning


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Six run folders of 40 steps."""
    random = np.random.default_rng(1)
    made = []
    for name in range(6):
        lines = [{"step": s, "loss": float(random.uniform(0.1, 1))} for s in range(1, 41)]
        for step in (20, 40):
            scores = {"accuracy": float(random.uniform()), "loss": float(random.uniform())}
            lines.append({"step": step, "validation": scores})
        folder = tmp_path / str(name)
        folder.mkdir()
        text = "\n".join(json.dumps(line) for line in lines)
        (folder / "metrics.jsonl").write_text(text)
        made.append(folder)
    return made


def last_scores(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["validation"]


def test_differences_are_those_of_pairs(folders):
    curves = [learning.read_curve(folder) for folder in folders]
    _, second = learning.compare({"a": curves[:3], "b": curves[3:]})
    for name, key in (("loss", "loss"), ("score", "accuracy")):
        pairs = [
            last_scores(b)[key] - last_scores(a)[key]
            for a, b in zip(folders[:3], folders[3:], strict=True)
        ]
        assert second[name] == pytest.approx((np.mean(pairs), stats.sem(pairs)))


def test_groups_of_other_sizes_are_refused(folders):
    curves = [learning.read_curve(folder) for folder in folders]
    with pytest.raises(SystemExit, match="b: got 2 runs; allowed: 3"):
        learning.compare({"a": curves[:3], "b": curves[3:5]})


def test_it_prints_a_table_and_draws(folders, tmp_path, capsys):
    picture = tmp_path / "curves.svg"
    one, two = (",".join(map(str, part)) for part in (folders[:3], folders[3:]))
    learning.main([f"ACCEPT={one}", f"PT={two}", "--picture", str(picture)])
    mean = np.mean([last_scores(folder)["loss"] for folder in folders[3:]])
    assert f"| PT | {mean:.4f} (" in capsys.readouterr().out
    assert picture.read_text().lstrip().startswith("<?xml")
