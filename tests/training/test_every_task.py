"""Every task of the table, end to end on a tiny model: an encoder-decoder, and a causal one."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.data_files import write_parquet
from support.golden import GOLDEN

from accept_llm import load_prompt
from accept_llm.api import predict
from accept_llm.cli import train as cli
from accept_llm.tasks.base import Task
from accept_llm.tasks.metrics import METRICS
from accept_llm.tasks.table import TASKS

HEADS = {
    "seq2seq": {"classes": "choice", "score": "generate", "text": "generate"},
    "causal": {"classes": "label_words", "score": "linear", "text": "generate"},
}


def write_rows(folder: Path, task: Task) -> None:
    """The golden row with other labels, as many times as the split policy needs."""
    record, _ = GOLDEN[task.name]
    for split, count in (("train", 1_008 if task.splits == "large" else 8), ("validation", 6)):
        rows = []
        for i in range(count):
            row: dict[str, Any] = dict(record)
            if task.kind == "score":
                row[task.label_column] = float(i % 6)
            elif task.kind == "classes" and task.name != "scitail":
                row[task.label_column] = i % len(task.labels)
            rows.append(row)
        write_parquet(folder / task.name / f"{split}.parquet", rows)


def recipe_of(folder: Path, name: str, model: Path, architecture: str) -> dict[str, Any]:
    task = TASKS[name]
    own = {} if task.hub is None else {"dir": str(folder / "data")}
    limits = {"train_limit": 8, "validation_limit": 3, "test_limit": 3}
    head: dict[str, Any] = {"kind": HEADS[architecture][task.kind]}
    if head["kind"] == "generate":
        head["max_new_tokens"] = 4
    return {
        "name": "run",
        "output_dir": str(folder / "runs"),
        "model": {"kind": "folder", "path": str(model), "dtype": "fp32"},
        "task": {"kind": name, **own, **limits, "max_length": 200},
        "method": {"kind": "accept", "budget": 20, "length": 4, "prepended": {"subspaces": 4}},
        "head": head,
        "train": {"steps": 2, "batch_size": 3, "eval_every": 2},
    }


@pytest.mark.parametrize("architecture", HEADS)
@pytest.mark.parametrize("name", TASKS)
def test_a_run_from_start_to_end(request, tmp_path, name, architecture):
    task = TASKS[name]
    model = request.getfixturevalue({"seq2seq": "tiny_t5", "causal": "tiny_llama"}[architecture])
    if task.hub is not None:
        write_rows(tmp_path / "data", task)
    path = tmp_path / "in.yaml"
    path.write_text(yaml.safe_dump(recipe_of(tmp_path, name, model, architecture)))
    cli.train_with("single", path, overrides=None)
    result = json.loads((tmp_path / "runs/run/result.json").read_text())
    assert list(result["test"]) == [task.metric, *task.extra_metrics, "loss"]
    assert all(key in METRICS for key in (task.metric, *task.extra_metrics))
    assert result["rows"] == {"train": 8, "validation": 3, "test": 3}
    lines = (tmp_path / "runs/run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines][-1] == 2
    adapter = load_prompt(tmp_path / "runs/run/prompt")
    assert adapter.card.head["kind"] == HEADS[architecture][task.kind]
    assert adapter.card.task.name == name


@pytest.mark.parametrize("name", ["squad", "stsb", "wsc.fixed", "record"])
def test_new_rows_are_answered(tmp_path, tiny_t5, name):
    """A trained adapter reads rows without a label, from JSON lines."""
    task = TASKS[name]
    write_rows(tmp_path / "data", task)
    path = tmp_path / "in.yaml"
    path.write_text(yaml.safe_dump(recipe_of(tmp_path, name, tiny_t5, "seq2seq")))
    cli.train_with("single", path, overrides=None)
    record = {key: GOLDEN[name][0][key] for key in task.columns}
    [line] = predict(tmp_path / "runs/run", [record])
    kinds = {"classes": ("label", str), "score": ("score", float), "text": ("answer", str)}
    key, kind = kinds[task.kind]
    assert isinstance(line[key], kind)
