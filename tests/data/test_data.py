"""Where rows come from, how they are split, and what is said about a bad file."""

import itertools
import re
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.data_files import (
    Rows,
    builtin,
    problems,
    reviews,
    spec_of,
    write_jsonl,
    write_parquet,
    write_task,
)

from accept_llm.data.sources import fetch_task, first_examples
from accept_llm.data.splits import Splits, load_splits
from accept_llm.errors import RecipeError
from accept_llm.recipe.task import BuiltinTask, FileTask
from accept_llm.tasks.table import TASKS


def sizes(splits: Splits) -> tuple[int, int, int]:
    return len(splits.train), len(splits.validation), len(splits.test)


def ids(splits: Splits) -> list[list[str]]:
    return [[e.id for e in part] for part in (splits.train, splits.validation, splits.test)]


@pytest.fixture
def train(tmp_path: Path) -> Path:
    """A hundred rows of two classes."""
    write_jsonl(tmp_path / "train.jsonl", reviews(100))
    return tmp_path / "train.jsonl"


# --- splits -----------------------------------------------------------------------------

SIZES = {
    "sst2": (66_349, 1_000, 872),
    "rte": (2_490, 138, 139),
    "cb": (250, 28, 28),
    "cola": (8_551, 521, 522),
    "mrpc": (3_668, 204, 204),
    "stsb": (5_749, 750, 750),
    "boolq": (215, 1_635, 1_635),
    "multirc": (27_243, 2_424, 2_424),
    "scitail": (158, 652, 652),
    "mnli": (8_999, 1_000, 9_815),
    "qqp": (7_999, 1_000, 1_000),
    "squad": (10_877, 1_000, 10_570),
}
LARGE = {"sst2", "mnli", "qqp", "squad"}


@pytest.mark.parametrize("name", SIZES)
def test_split_policy_on_real_data(name: str, data_dir: Path) -> None:
    splits = load_splits(builtin(name, dir=str(data_dir)), seed=0)
    assert sizes(splits) == SIZES[name]
    train, validation, test = ids(splits)
    assert len({*train, *validation, *test}) == sum(SIZES[name])
    carved = "train" if name in LARGE else "validation"
    assert {i.split(":")[0] for i in validation} == {carved}
    assert {i.split(":")[0] for i in test} == {"validation"}
    assert train == sorted(train, key=lambda i: int(i.split(":")[1]))


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.hub])
def test_split_policy(name: str, tmp_path: Path) -> None:
    """Of a large task 1,000 training rows are the validation set; of a small one its validation
    rows are halved."""
    folder = write_task(tmp_path, name, train=1_007, validation=9)
    splits = load_splits(builtin(name, dir=str(folder)), seed=0)
    large = TASKS[name].splits == "large"
    assert sizes(splits) == ((7, 1_000, 9) if large else (1_007, 4, 5))
    every = {f"train:{i}" for i in range(1_007)} | {f"validation:{i}" for i in range(9)}
    assert set().union(*ids(splits)) == every


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCEPT_DATA_DIR", str(write_task(tmp_path, "cb", train=30, validation=8)))
    spec = BuiltinTask(kind="cb")
    assert load_splits(spec, seed=0) == load_splits(spec, seed=1)  # without shots, no seed matters
    assert sizes(load_splits(spec, seed=0)) == (30, 4, 4)


def test_quickstart_tests_on_rows_of_their_own() -> None:
    splits = load_splits(BuiltinTask(kind="quickstart"), seed=0)
    assert sizes(splits) == (420, 90, 90)
    texts = {e.parts[0][1] for part in (splits.train, splits.validation, splits.test) for e in part}
    assert len(texts) == 600
    for part in (splits.train, splits.validation, splits.test):
        assert {len(part)} == {2 * count for count in Counter(e.label for e in part).values()}
    [problem] = problems(BuiltinTask(kind="quickstart", dir="x"))
    assert problem.startswith("task.dir: got 'x'; allowed: no dir, the rows of quickstart come")


def test_the_split_seed_decides(train: Path) -> None:
    first, again, other = (load_splits(spec_of(train, split_seed=s), seed=0) for s in (1, 1, 2))
    assert first == again
    assert ids(first)[1] != ids(other)[1]
    assert sizes(first) == sizes(other)


def test_a_large_task_needs_rows(tmp_path: Path) -> None:
    rows = [{"sentence": f"s {i}", "label": i % 2} for i in range(1_001)]
    write_parquet(tmp_path / "sst2/validation.parquet", rows[:10])
    write_parquet(tmp_path / "sst2/train.parquet", rows)
    spec = BuiltinTask(kind="sst2", dir=str(tmp_path))
    assert sizes(load_splits(spec, seed=0)) == (1, 1_000, 10)
    write_parquet(tmp_path / "sst2/train.parquet", rows[:1_000])
    [problem] = problems(spec)
    assert "got 1,000 training rows of sst2; allowed: more than 1,000" in problem


def test_files_without_validation_or_test(tmp_path: Path, train: Path) -> None:
    extra = tmp_path / "extra.jsonl"
    write_jsonl(extra, reviews(7))
    assert sizes(load_splits(spec_of(train), seed=0)) == (80, 10, 10)
    assert sizes(load_splits(spec_of(train, test=str(extra)), seed=0)) == (80, 20, 7)
    assert sizes(load_splits(spec_of(train, validation=str(extra)), seed=0)) == (100, 3, 4)
    both = spec_of(train, validation=str(extra), test=str(train))
    assert sizes(load_splits(both, seed=0)) == (100, 7, 100)
    everything = ids(load_splits(spec_of(train), seed=0))
    assert sorted(itertools.chain(*everything)) == sorted(f"train:{i}" for i in range(100))


def test_a_share_is_set_aside_of_the_training_rows(tmp_path: Path, train: Path) -> None:
    extra = tmp_path / "extra.jsonl"
    write_jsonl(extra, reviews(7))
    own = {"test": str(extra)}
    assert sizes(load_splits(spec_of(train, validation=0.1, **own), seed=0)) == (90, 10, 7)
    assert sizes(load_splits(spec_of(train, validation=0.29, **own), seed=0)) == (71, 29, 7)
    assert sizes(load_splits(spec_of(train, validation=0.1), seed=0)) == (90, 5, 5)
    assert sizes(load_splits(spec_of(train, test=0.3), seed=0)) == (50, 20, 30)
    assert sizes(load_splits(spec_of(train, validation=str(extra), test=0.3), seed=0)) == (
        70,
        7,
        30,
    )
    both = ids(load_splits(spec_of(train, validation=0.1, test=0.2), seed=0))
    assert list(map(len, both)) == [70, 10, 20]
    assert len(set(itertools.chain(*both))) == 100


def test_a_share_of_too_little_or_all(train: Path) -> None:
    [problem] = problems(spec_of(train, validation=0.01))
    assert problem.startswith("task.validation: got 0.01, which is 1 of 100 rows; allowed: a share")
    [problem] = problems(spec_of(train, validation=0.5, test=0.5))
    assert problem.startswith("task.test: got 0.5, which is 50 of 100 rows; allowed: a share of at")
    for value in (0, 1, 1.5, -0.1, True, []):
        with pytest.raises(ValueError, match="a file, or a share of the training rows between 0"):
            spec_of(train, validation=value)


def test_files_too_small_to_cut(tmp_path: Path, train: Path) -> None:
    small = tmp_path / "small.jsonl"
    write_jsonl(small, reviews(9))
    [problem] = problems(spec_of(small))
    assert problem.startswith("task.train: got 9 row(s); allowed: at least 10 where a fifth is")
    write_jsonl(small, reviews(1))
    [problem] = problems(spec_of(train, validation=str(small)))
    assert problem.startswith("task.validation: got 1 row(s); allowed: at least 2, it is halved")


def test_limits_keep_the_first_rows(train: Path) -> None:
    whole = load_splits(spec_of(train), seed=0)
    spec = spec_of(train, train_limit=5, validation_limit=4, test_limit=3)
    cut = load_splits(spec, seed=0)
    expected = (whole.train[:5], whole.validation[:4], whole.test[:3])
    assert (cut.train, cut.validation, cut.test) == expected


# --- few shots --------------------------------------------------------------------------


@pytest.mark.parametrize("shots", [1, 4, 16, 32])
def test_shots_are_balanced_and_seeded(tmp_path: Path, shots: int) -> None:
    path = tmp_path / "train.jsonl"
    write_jsonl(path, reviews(200, classes=3))
    spec = spec_of(path, labels=["a", "b", "c"], shots=shots)
    splits = load_splits(spec, seed=0)
    counts = Counter(e.label for e in splits.train)
    assert sum(counts.values()) == len({e.id for e in splits.train}) == shots
    assert max(counts.values()) - min(counts.get(i, 0) for i in range(3)) <= 1
    assert splits == load_splits(spec, seed=0)
    assert shots == 1 or splits.train != load_splits(spec, seed=1).train
    assert ids(splits)[1:] == ids(load_splits(spec, seed=1))[1:]


def test_a_class_without_rows_is_said(tmp_path: Path) -> None:
    for split, labels in {"train": "aab", "validation": "abc", "test": "cc"}.items():
        rows = [{"text": "x", "label": label} for label in labels]
        write_jsonl(tmp_path / f"{split}.jsonl", rows)
    files = {s: str(tmp_path / f"{s}.jsonl") for s in ("train", "validation", "test")}
    spec = FileTask(kind="file", text=["text"], label="label", labels=["a", "b", "c"], **files)
    assert load_splits(spec, seed=0).notes == [
        "task.labels: no train row has c",
        "task.labels: no test row has a, b",
    ]


def test_shots_of_every_kind_of_task(tmp_path: Path) -> None:
    for name, expected in {"cb": [16, 16, 16], "rte": [24, 24], "stsb": [48]}.items():
        folder = write_task(tmp_path, name, train=200, validation=8)
        spec = builtin(name, dir=str(folder), shots=48)
        counts = Counter(e.label for e in load_splits(spec, seed=0).train)
        assert sorted(counts.values()) == expected


def test_shots_of_texts_are_drawn_at_random(tmp_path: Path) -> None:
    folder = write_task(tmp_path, "squad", train=1_100, validation=5)
    spec = builtin("squad", dir=str(folder), shots=16, validation_limit=1, test_limit=1)
    first, again, other = (load_splits(spec, seed=s).train for s in (1, 1, 2))
    assert len({e.id for e in first}) == 16
    assert first == again
    assert first != other


def test_too_many_shots(tmp_path: Path, train: Path) -> None:
    [problem] = problems(spec_of(train, shots=81))
    assert problem == "task.shots: got 81; allowed: at most 80, the training rows there are"
    rare = tmp_path / "rare.jsonl"
    write_jsonl(rare, [{"text": f"t {i}", "label": int(i == 0)} for i in range(50)])
    [problem] = problems(spec_of(rare, shots=8, validation=str(train)))
    expected = "task.shots: got 8, which needs 4 rows of class 'good'; allowed: 1, those in train"
    found = re.fullmatch(re.escape(expected) + r" \((\d+) in validation, (\d+) in test\)", problem)
    assert found
    assert int(found[1]) + int(found[2]) == 50


# --- folders and the Hub ----------------------------------------------------------------


@pytest.mark.parametrize("variable", ["task.dir", "ACCEPT_DATA_DIR"])
def test_a_folder_without_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("ACCEPT_DATA_DIR", str(tmp_path))
    own = {"dir": str(tmp_path)} if variable == "task.dir" else {}
    first, second = problems(builtin("rte", **own))
    assert first == (
        f"{variable}: got '{tmp_path}', but {tmp_path}/rte/train.parquet does not exist; "
        "allowed: a folder with rte/train.parquet and rte/validation.parquet "
        "(`accept-llm data fetch rte --out DIR` writes it)"
    )
    assert f"{tmp_path}/rte/validation.parquet does not exist" in second


def wsc_rows(count: int) -> Rows:
    spans = {"span1_index": 0, "span1_text": "Ann", "span2_index": 2, "span2_text": "she"}
    return [{"text": f"Ann said she {i}", **spans, "label": i % 2} for i in range(count)]


def test_wsc_may_lie_under_its_other_name(tmp_path: Path) -> None:
    spec = builtin("wsc.fixed", dir=str(tmp_path))
    assert f"{tmp_path}/wsc.fixed/train.parquet does not exist" in problems(spec)[0]
    for split in ("train", "validation"):
        write_parquet(tmp_path / f"wsc/{split}.parquet", wsc_rows(4))
    assert sizes(load_splits(spec, seed=0)) == (4, 2, 2)
    for split in ("train", "validation"):
        write_parquet(tmp_path / f"wsc.fixed/{split}.parquet", wsc_rows(6))
    assert sizes(load_splits(spec, seed=0)) == (6, 3, 3)


def test_answers_of_either_schema(tmp_path: Path) -> None:
    """A list of texts, as the MRQA sets have it, and SQuAD's own."""
    text = {"question": "Where?", "context": "In São Paulo."}
    mrqa = [{**text, "answers": ["São Paulo", "São Paulo", ""]}] * 1_001
    squad = [{**text, "answers": {"text": ["São Paulo"], "answer_start": [3]}}] * 1_001
    for name, rows in {"a": mrqa, "b": squad}.items():
        for split in ("train", "validation"):
            write_parquet(tmp_path / name / f"nq/{split}.parquet", rows)
    spec = builtin("nq", dir=str(tmp_path / "a"))
    splits = load_splits(spec, seed=0)
    assert {e.label for e in splits.test} == {("São Paulo",)}
    assert splits == load_splits(builtin("nq", dir=str(tmp_path / "b")), seed=0)


def test_hidden_answers_are_refused(tmp_path: Path) -> None:
    row = {"query": "@placeholder won", "entities": ["Ann"], "passage": "Ann ran."}
    rows = [{**row, "answers": ["Ann"]}, {**row, "answers": []}]
    for split in ("train", "validation"):
        write_parquet(tmp_path / f"record/{split}.parquet", rows)
    first, second = problems(builtin("record", dir=str(tmp_path)))
    assert first == (
        f"task.dir: {tmp_path}/record/train.parquet, row 1 (from 0): answers: got []; allowed: at "
        "least one text (an empty list marks hidden answers, or a question without one (SQuAD v2): "
        "such rows cannot be used)"
    )
    assert "validation.parquet, row 1" in second


def test_the_first_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCEPT_DATA_DIR", str(tmp_path))
    with pytest.raises(RecipeError, match=r"wsc.fixed/train.parquet does not exist"):
        first_examples(TASKS["wsc.fixed"], 3)
    for split, count in {"validation": 5, "train": 2}.items():
        write_parquet(tmp_path / f"wsc/{split}.parquet", wsc_rows(count))
        found, examples = first_examples(TASKS["wsc.fixed"], 3)
        assert found == split
        assert [e.id for e in examples] == [f"{split}:{i}" for i in range(min(count, 3))]
    write_parquet(tmp_path / "wsc/train.parquet", [{**wsc_rows(1)[0], "span1_index": 9}])
    with pytest.raises(RecipeError, match=r"row 0 \(from 0\): span1_index: got 9"):
        first_examples(TASKS["wsc.fixed"], 3)


def test_a_folder_with_other_columns(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        write_parquet(tmp_path / f"rte/{split}.parquet", reviews(4))
    found = problems(BuiltinTask(kind="rte", dir=str(tmp_path)))
    assert len(found) == 4
    assert found[0] == (
        "task.dir: got column 'sentence1'; allowed: the columns of "
        f"{tmp_path}/rte/train.parquet: text, label"
    )


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """A Hub that has a small rte, and what was asked of it."""
    import datasets

    asked: list[tuple[str, str]] = []

    def load_dataset(repo: str, config: str) -> Any:
        asked.append((repo, config))
        rows = [{"sentence1": f"a {i}", "sentence2": "b", "label": i % 2} for i in range(8)]
        hidden = [{**row, "label": -1} for row in rows]
        parts = {"train": rows, "validation": rows[:5], "test": hidden}
        return datasets.DatasetDict({k: datasets.Dataset.from_list(v) for k, v in parts.items()})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.delenv("ACCEPT_DATA_DIR", raising=False)
    return asked


def test_fetched_rows_are_the_hubs(tmp_path: Path, hub: list[tuple[str, str]]) -> None:
    straight = load_splits(BuiltinTask(kind="rte"), seed=0)
    assert sizes(straight) == (8, 2, 3)
    folder = fetch_task("rte", tmp_path / "new")
    assert folder == tmp_path / "new/rte"
    assert sorted(p.name for p in folder.iterdir()) == [
        "test.parquet",
        "train.parquet",
        "validation.parquet",
    ]
    assert [p.name for p in folder.parent.iterdir()] == ["rte"]
    assert load_splits(BuiltinTask(kind="rte", dir=str(folder.parent)), seed=0) == straight
    assert hub == [("nyu-mll/glue", "rte")] * 2


def test_mnli_is_tested_on_its_matched_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub has two validation splits; a folder has the matched one as validation.parquet."""
    import datasets

    def load_dataset(repo: str, config: str) -> Any:
        counts = {"train": 1_003, "validation_matched": 4, "validation_mismatched": 5}
        parts = {
            name: [{"premise": f"{name} {i}", "hypothesis": "b", "label": i % 3} for i in range(n)]
            for name, n in {**counts, "test_matched": 2, "test_mismatched": 1}.items()
        }
        return datasets.DatasetDict({k: datasets.Dataset.from_list(v) for k, v in parts.items()})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.delenv("ACCEPT_DATA_DIR", raising=False)
    straight = load_splits(builtin("mnli"), seed=0)
    assert sizes(straight) == (3, 1_000, 4)
    assert straight.test[0].parts[0] == ("mnli premise: ", "validation_matched 0")
    folder = fetch_task("mnli", tmp_path)
    names = ("test", "test_mismatched", "train", "validation", "validation_mismatched")
    assert sorted(p.name for p in folder.iterdir()) == [f"{name}.parquet" for name in names]
    assert load_splits(builtin("mnli", dir=str(tmp_path)), seed=0) == straight


def test_fetch_never_overwrites(tmp_path: Path, hub: list[tuple[str, str]]) -> None:
    (tmp_path / "rte").mkdir()
    (tmp_path / "rte/train.parquet").write_text("mine")
    with pytest.raises(RecipeError, match=r"--out: got .*/rte exists; allowed: a folder without"):
        fetch_task("rte", tmp_path)
    assert (tmp_path / "rte/train.parquet").read_text() == "mine"
    (tmp_path / "file").touch()
    with pytest.raises(RecipeError, match=r"--out: got .*/file, cannot write there \(File exists"):
        fetch_task("rte", tmp_path / "file")
    with pytest.raises(RecipeError, match=r"data fetch: got 'rt', did you mean 'rte'\? allowed: s"):
        fetch_task("rt", tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "rte"]


def test_a_folder_that_cannot_be_written_to_is_tried_before_the_download(
    tmp_path: Path, hub: list[tuple[str, str]]
) -> None:
    (tmp_path / "file").touch()
    for out in tmp_path / "file", tmp_path / "file/below", Path("/proc/none"):
        with pytest.raises(RecipeError, match=r"--out: got .*, cannot write there \("):
            fetch_task("rte", out)
    assert hub == []
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(repo: str, config: str) -> Any:
        raise ConnectionError(f"Couldn't reach {repo!r} on the Hub (offline)\nmore")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.delenv("ACCEPT_DATA_DIR", raising=False)
    assert problems(BuiltinTask(kind="cb")) == [
        "task.kind: got 'cb', but aps/super_glue cannot be had from the Hub (ConnectionError: "
        "Couldn't reach 'aps/super_glue' on the Hub (offline)); allowed: a Hub that answers, or "
        "as task.dir or ACCEPT_DATA_DIR a folder with cb/train.parquet and cb/validation.parquet "
        "(`accept-llm data fetch cb --out DIR` writes it)"
    ]
    with pytest.raises(RecipeError, match="cannot be had from the Hub"):
        fetch_task("cb", tmp_path / "out/below")
    assert not (tmp_path / "out").exists()
