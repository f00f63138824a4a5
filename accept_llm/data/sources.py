"""Rows into examples, from a local folder, a user's files, the package or the Hub. It knows no task
by name, no tokenizer and no model.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accept_llm.data.readers import count_rows, read_rows
from accept_llm.errors import Notify, RecipeError, refusal, silent
from accept_llm.recipe.task import BuiltinTask, FileTask
from accept_llm.storage import DATA_DIR, atomic_folder, data_dir, home_path
from accept_llm.tasks.base import Example, Task
from accept_llm.tasks.table import TASKS

PACKAGED = Path(__file__).resolve().parent.parent  # quickstart/ lies in it
_NO_NETWORK = {"ConnectError", "ConnectTimeout", "ConnectionError", "ProxyError"}
SHOWN = 5  # bad rows listed in an error


class MissingFile(RecipeError):
    """A folder has no file of a split."""


Examples = list[Example]
Reader = Callable[[str], Examples]  # split -> its examples


# --- reading ----------------------------------------------------------------------------


def _examples(task: Task, rows: Sequence[Mapping[str, Any]], *, split: str, where: str) -> Examples:
    found, bad = [], []
    for number, record in enumerate(rows):
        try:
            found.append(task.example(f"{split}:{number}", record))
        except ValueError as error:
            bad.append(f"{where}, row {number} (from 0): {error}")
    if len(bad) > SHOWN:
        bad[SHOWN:] = [f"{where}: {len(bad)} bad rows of {len(rows)}, the first {SHOWN} are shown"]
    if bad:
        raise RecipeError(bad)
    return found


@dataclass(frozen=True)
class _File:
    """A file of rows, and the recipe's keys that name it and its columns."""

    path: Path
    field: str
    columns: Mapping[str, str]

    def read(
        self, task: Task, split: str, *, count: int | None = None, notify: Notify = silent
    ) -> Examples:
        rows = read_rows(
            self.path, field=self.field, columns=self.columns, count=count, notify=notify
        )
        return _examples(task, rows, split=split, where=f"{self.field}: {self.path}")


def _local(spec: BuiltinTask | FileTask, task: Task) -> Callable[[str], _File] | None:
    """Split -> its file; None where the rows are the Hub's."""
    if isinstance(spec, FileTask):
        columns = {**dict.fromkeys(spec.text, "task.text"), spec.label: "task.label"}
        return lambda split: _File(home_path(getattr(spec, split)), f"task.{split}", columns)
    if task.hub is None:
        if spec.dir is not None:
            allowed = f"no dir, the rows of {task.name} come with the package"
            raise RecipeError([f"task.dir: got {spec.dir!r}; allowed: {allowed}"])
        return _in_folder(task, PACKAGED, field="task.kind", suffix=".jsonl")
    field, folder = DATA_DIR, data_dir()
    if spec.dir is not None:
        field, folder = "task.dir", home_path(spec.dir)
    return None if folder is None else _in_folder(task, folder, field=field, suffix=".parquet")


def _in_folder(task: Task, folder: Path, *, field: str, suffix: str) -> Callable[[str], _File]:
    columns = dict.fromkeys((*task.columns, task.label_column), field)
    names = [name for name in (task.name, *task.folders) if (folder / name).is_dir()]
    place = folder / (names[0] if names else task.name)

    def file(split: str) -> _File:
        path = place / f"{split}{suffix}"
        if not path.exists():
            got = f"{field}: got {str(folder)!r}, but {path} does not exist"
            raise MissingFile([f"{got}; allowed: {_a_folder(task, suffix)}"])
        return _File(path, field, columns)

    return file


def _reader(spec: BuiltinTask | FileTask, task: Task, *, notify: Notify = silent) -> Reader:
    file = _local(spec, task)
    if file is None:
        return _hub_reader(task)
    return lambda split: file(split).read(task, split, notify=notify)


def sample(spec: BuiltinTask | FileTask, count: int) -> tuple[Examples, int]:
    """The first `count` training examples that are in the file, and how many it has; nothing
    where they are the Hub's. RecipeError as in `load_splits`."""
    task = task_from(spec)
    file = _local(spec, task)
    if file is None:
        return [], 0
    found = file("train")
    return found.read(task, "train", count=count), count_rows(found.path)


def _a_folder(task: Task, suffix: str = ".parquet") -> str:
    files = f"{task.name}/train{suffix} and {task.name}/validation{suffix}"
    return f"a folder with {files} (`accept-llm data fetch {task.name} --out DIR` writes it)"


def _from_hub(task: Task) -> Any:
    """The task's splits on the Hub, a `datasets.DatasetDict`."""
    assert task.hub is not None, task.name
    repo, config = task.hub
    try:
        _ask_hub(repo)
        import datasets

        return datasets.load_dataset(repo, config)
    except Exception as error:  # the transport errors of the Hub's clients have no common base
        why = f"{type(error).__name__}: {error}".strip().split("\n")[0]
        got = f"task.kind: got {task.name!r}, but {repo} cannot be had from the Hub ({why})"
        allowed = f"a Hub that answers, or as task.dir or {DATA_DIR} {_a_folder(task)}"
        raise RecipeError([f"{got}; allowed: {allowed}"]) from error


def _ask_hub(repo: str) -> None:
    """One quick request: where there is no network, `load_dataset` retries for half a minute."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    cache = os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets"
    if constants.HF_HUB_OFFLINE or (Path(cache) / repo.replace("/", "___")).is_dir():
        return
    try:
        HfApi().dataset_info(repo, timeout=5)
    except HfHubHTTPError:
        return  # the Hub answers: `load_dataset` says what is wrong
    except Exception as error:
        # By name: the library below huggingface_hub was requests, then httpx, then httpx2.
        if any(c.__name__ in _NO_NETWORK for c in type(error).__mro__):
            raise


def _hub_reader(task: Task) -> Reader:
    splits = _from_hub(task)
    where = f"task.kind: {task.name} of the Hub"

    def read(split: str) -> Examples:
        return _examples(
            task, splits[task.hub_splits.get(split, split)].to_list(), split=split, where=where
        )

    return read


def first_examples(task: Task, count: int) -> tuple[str, Examples]:
    """The first examples of a task of the table, out of its training split, or of its validation
    split where a folder has no other; with the split's name. RecipeError as in `load_splits`."""
    read = _reader(BuiltinTask.model_validate({"kind": task.name}), task)
    try:
        return "train", read("train")[:count]
    except MissingFile as missing:
        try:
            return "validation", read("validation")[:count]
        except MissingFile:
            raise missing from None


# --- fetching ---------------------------------------------------------------------------


def fetch_task(name: str, out: Path) -> Path:
    """Writes <out>/<name>/{train,validation,test}.parquet from the Hub, and further splits it may
    have (MNLI's mismatched ones) under their names there; returns the folder.

    The folder appears whole or not at all. Raises RecipeError for a task that is not on the
    Hub, a folder that is there already, an unreachable Hub and an unwritable `out`.
    """
    known = [task.name for task in TASKS.values() if task.hub is not None]
    if name not in known:
        raise RecipeError([f"data fetch: {refusal(name, known, allowed=', '.join(known))}"])
    folder = home_path(out) / name
    if folder.exists():
        raise RecipeError([f"--out: got {out}, but {folder} exists; allowed: a folder without it"])
    ours = {theirs: split for split, theirs in TASKS[name].hub_splits.items()}
    new = [path for path in folder.parents if not path.exists()]
    try:
        with atomic_folder(folder) as draft:  # before the download, which would be lost
            for split, rows in _from_hub(TASKS[name]).items():
                rows.to_parquet(draft / f"{ours.get(split, split)}.parquet")
    except BaseException as error:
        with suppress(OSError):
            for path in new:
                path.rmdir()
        if not isinstance(error, OSError):
            raise
        got = f"--out: got {out}, cannot write there ({error.strerror or error})"
        raise RecipeError([got]) from None
    return folder


def file_task(spec: FileTask) -> Task:
    """The task a recipe describes; RecipeError where the label is also a text column."""
    if spec.label in spec.text:
        raise RecipeError([f"task.label: got {spec.label!r}; allowed: a column not in task.text"])
    return Task(
        name=spec.title,
        labels=tuple(spec.labels),
        words=tuple(spec.labels),
        question=spec.question,
        metric=spec.metric,
        columns=tuple(spec.text),
        label_column=spec.label,
        hub=None,
        splits="small",
    )


def task_from(spec: BuiltinTask | FileTask) -> Task:
    """The task of a recipe; RecipeError where a file's label is also one of its texts."""
    return file_task(spec) if isinstance(spec, FileTask) else TASKS[spec.kind]
