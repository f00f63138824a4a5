"""Examples into training, validation and test splits. It knows no task by name."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from accept_llm.data.sources import Examples, Reader, _reader, task_from
from accept_llm.errors import RecipeError
from accept_llm.recipe.task import BuiltinTask, FileTask, TaskSpec
from accept_llm.tasks.base import Task, join_names

SPLITS = ("train", "validation", "test")
CARVED = 1000  # training rows that become validation where a task is large


@dataclass(frozen=True)
class Splits:
    """The three splits of a task; none is empty."""

    task: Task
    train: Examples
    validation: Examples
    test: Examples
    file_notes: tuple[str, ...] = ()
    """What reading the files has found that may be a mistake."""

    @property
    def summary(self) -> str:
        """The task's name and the rows of each split, for the eye."""
        sizes = [f"{len(getattr(self, s))} {s}" for s in SPLITS]
        return f"{self.task.name}, {', '.join(sizes)} rows"

    @property
    def notes(self) -> list[str]:
        """The notes of the files, and a line for each split that lacks rows of some of the task's
        classes."""
        found = list(self.file_notes)
        for split in SPLITS:
            seen = {example.label for example in getattr(self, split)}
            absent = [name for i, name in enumerate(self.task.labels) if i not in seen]
            if absent:
                found.append(f"task.labels: no {split} row has {join_names(absent)}")
        return found


def load_splits(spec: TaskSpec, *, seed: int, task: Task | None = None) -> Splits:
    """Reads and splits a task (the spec's, if it is resolved already): the same spec and seed give
    the same splits.

    - Small tasks: the validation split, permuted with spec.split_seed, is halved into
      validation and test.
    - Large tasks: 1,000 training rows so drawn are the validation set, and the official
      validation split is the test set.
    - The quick-start set comes with all three.
    - Files: without a validation file a fifth of the training rows is set aside, or the share
      that `validation` names; so is the share that `test` names. Without a test file or a share
      the validation rows are halved.

    Then the limits keep the first rows of each split, and `spec.shots` draws that many of
    the training rows that are left, with `seed`, balanced over the classes. Training rows stay
    in the order of the file. Raises RecipeError with the problems of all files at once.
    """
    task = task or task_from(spec)
    notes: list[str] = []
    read = _reader(spec, task, notify=notes.append)
    if isinstance(spec, FileTask):
        train, validation, test = _split_files(spec, read)
    else:
        train, validation, test = _split_builtin(spec, task, read=read)
    train = train[: spec.train_limit]
    if spec.shots is not None:
        others = {"validation": validation, "test": test}
        train = _draw(train, spec.shots, task=task, seed=seed, others=others)
    validation, test = validation[: spec.validation_limit], test[: spec.test_limit]
    return Splits(task, train, validation, test, tuple(notes))


def _read_all(read: Reader, *names: str) -> list[Examples]:
    """Reads several splits; the problems of all of them are one RecipeError."""
    found, problems = [], []
    for name in names:
        try:
            found.append(read(name))
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(problems)
    return found


# --- cutting ----------------------------------------------------------------------------


def _split_builtin(
    spec: BuiltinTask, task: Task, *, read: Reader
) -> tuple[Examples, Examples, Examples]:
    if task.splits == "given":
        train, validation, test = _read_all(read, "train", "validation", "test")
        return train, validation, test
    train, validation = _read_all(read, "train", "validation")
    if task.splits == "small":
        return train, *_halve(validation, spec.split_seed, name=f"{task.name}'s validation split")
    if len(train) <= CARVED:
        allowed = f"more than {CARVED:,}, which become the validation set"
        raise RecipeError(
            [f"task.kind: got {len(train):,} training rows of {task.name}; allowed: {allowed}"]
        )
    return *_set_aside(train, CARVED, seed=spec.split_seed), validation


def _split_files(spec: FileTask, read: Reader) -> tuple[Examples, Examples, Examples]:
    names = [name for name in SPLITS if isinstance(getattr(spec, name), str)]
    found = dict(zip(names, _read_all(read, *names), strict=True))
    train, halved = found["train"], spec.test is None
    count = len(train)
    if spec.validation is None and count < (least := 10 if halved else 5):
        allowed = f"at least {least} where a fifth is set aside, or a task.validation"
        raise RecipeError([f"task.train: got {count} row(s); allowed: {allowed}"])
    shares = {"validation": 0.2 if spec.validation is None else spec.validation, "test": spec.test}
    for name, share in shares.items():
        if isinstance(share, float):
            part, least = round(share * count, 6) // 1, 2 if halved else 1
            if not least <= part < len(train):
                allowed = f"a share of at least {least} that leaves some for training"
                got = f"task.{name}: got {share}, which is {part:.0f} of {count} rows"
                raise RecipeError([f"{got}; allowed: {allowed}"])
            train, found[name] = _set_aside(train, int(part), seed=spec.split_seed)
    if not halved:
        return train, found["validation"], found["test"]
    return train, *_halve(found["validation"], spec.split_seed, name="task.validation")


def _order(rows: Examples, seed: int) -> list[int]:
    return np.random.default_rng(seed).permutation(len(rows)).tolist()


def _set_aside(rows: Examples, count: int, *, seed: int) -> tuple[Examples, Examples]:
    """The rows that stay, in their order, and `count` drawn rows."""
    order = _order(rows, seed)
    return [rows[i] for i in sorted(order[count:])], [rows[i] for i in order[:count]]


def _halve(rows: Examples, seed: int, *, name: str) -> tuple[Examples, Examples]:
    if len(rows) < 2:
        allowed = "at least 2, it is halved into validation and test"
        raise RecipeError([f"{name}: got {len(rows)} row(s); allowed: {allowed}"])
    order, half = _order(rows, seed), len(rows) // 2
    return [rows[i] for i in order[:half]], [rows[i] for i in order[half:]]


def _draw(
    rows: Examples, shots: int, *, task: Task, seed: int, others: Mapping[str, Examples]
) -> Examples:
    """`shots` rows, as many of each class; where that leaves a rest, of classes drawn too. The
    `others` are the splits where further rows of a class may be."""
    rng = np.random.default_rng(seed)
    if len(rows) < shots:
        allowed = f"at most {len(rows)}, the training rows there are"
        raise RecipeError([f"task.shots: got {shots}; allowed: {allowed}"])
    order = rng.permutation(len(rows)).tolist()
    if task.kind != "classes":
        return [rows[i] for i in sorted(order[:shots])]
    each, rest = divmod(shots, len(task.labels))
    needed = np.full(len(task.labels), each)
    needed[rng.permutation(len(task.labels))[:rest]] += 1
    chosen: list[int] = []
    problems = []
    for label, count in enumerate(needed.tolist()):
        of_class = [i for i in order if rows[i].label == label]
        chosen += of_class[:count]
        if len(of_class) < count:
            elsewhere = [
                f"{sum(row.label == label for row in split)} in {name}"
                for name, split in others.items()
            ]
            problems.append(
                f"task.shots: got {shots}, which needs {count} rows of class "
                f"{task.labels[label]!r}; allowed: {len(of_class)}, those in train "
                f"({', '.join(elsewhere)})"
            )
    if problems:
        raise RecipeError(problems)
    return [rows[i] for i in sorted(chosen)]
