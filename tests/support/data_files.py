"""Rows and files for tests of data, and what is said about them."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from accept_llm.data.splits import load_splits
from accept_llm.errors import RecipeError
from accept_llm.recipe.task import BuiltinTask, FileTask
from accept_llm.tasks.table import TASKS
from support.golden import GOLDEN

Rows = list[dict[str, Any]]


def reviews(count: int, *, classes: int = 2) -> Rows:
    return [{"text": f"review {i}", "label": i % classes} for i in range(count)]


def write_parquet(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_jsonl(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_json(path: Path, rows: Rows) -> None:
    path.write_text(json.dumps(rows))


def write_csv(path: Path, rows: Rows, *, delimiter: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


WRITERS: dict[str, Callable[[Path, Rows], None]] = {
    "csv": write_csv,
    "tsv": lambda path, rows: write_csv(path, rows, delimiter="\t"),
    "jsonl": write_jsonl,
    "json": write_json,
    "parquet": write_parquet,
}


def write_task(folder: Path, name: str, **splits: int) -> Path:
    """<folder>/<name>/<split>.parquet of so many rows, of every class in turn; the folder."""
    task, (record, _) = TASKS[name], GOLDEN[name]
    for split, count in splits.items():
        labels = range(len(task.labels)) if task.labels else [record[task.label_column]]
        given = (labels[i % len(labels)] for i in range(count))
        write_parquet(
            folder / name / f"{split}.parquet", [{**record, task.label_column: x} for x in given]
        )
    return folder


def spec_of(train: Path, **more: Any) -> FileTask:
    fields = {"text": ["text"], "label": "label", "labels": ["bad", "good"], **more}
    return FileTask(kind="file", train=str(train), **fields)


def builtin(name: str, **more: Any) -> BuiltinTask:
    return BuiltinTask.model_validate({"kind": name, **more})


def problems(spec: BuiltinTask | FileTask) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_splits(spec, seed=0)
    return caught.value.problems
