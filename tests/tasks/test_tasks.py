"""Each task's text form and labels on golden and on real rows."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.golden import GOLDEN

from accept_llm.data.sources import task_from
from accept_llm.errors import RecipeError
from accept_llm.recipe.recipe import dump_recipe, load_recipe, schema
from accept_llm.recipe.task import BuiltinTask, FileTask
from accept_llm.tasks.base import Example, Label, read_score, score_text
from accept_llm.tasks.metrics import METRICS
from accept_llm.tasks.table import TASKS

FILE: dict[str, Any] = {
    **{"kind": "file", "train": "x.csv", "text": ["text"], "label": "label"},
    "labels": ["a", "b"],
}


# The start of the first row of each data set, as published; of the training rows where they
# are there.
FIRST_ROWS: dict[str, tuple[str, Label]] = {
    "sst2": ("sst2 sentence: hide new secretions from the parental units", 0),
    "cola": ("cola sentence: Our friends won't buy this analysis, let alone", 1),
    "rte": ("rte sentence1: No Weapons of Mass Destruction Found in Iraq Yet. sentence2: Wea", 1),
    "mrpc": ("mrpc sentence1: Amrozi accused his brother, whom he called", 1),
    "stsb": ("stsb sentence1: A plane is taking off. sentence2: An air plane is taking off.", 5.0),
    "cb": ("cb premise: It was a complex language. Not written down but handed down. One", 0),
    "boolq": ("boolq question: ", 0),
    "qqp": ("qqp question1: How do I get inside University College London being an Indian? q", 0),
    "mnli": ("mnli premise: Our hearts are particularly heavy this year as we look back at", 0),
    "multirc": (
        "multirc question: What did the high-level effort to persuade Pakistan include? "
        "answer: Children, Gerd, or Dorian Popa paragraph: While this process moved along, dip",
        0,
    ),
    "scitail": ('scitail premise: : "The planets, the sun, the stars, all belong to one', 1),
    "squad": (
        "squad question: To whom did the Virgin Mary allegedly appear in 1858 in Lourdes France? "
        "context: Architecturally, the school has a Catholic character.",
        ("Saint Bernadette Soubirous",),
    ),
    "nq": (
        "nq question: who got the first nobel prize in physics context: The first Nobel Prize in "
        "Physics was awarded in 1901 to Wilhelm Conrad Röntgen, of Germany,",
        ("Wilhelm Conrad Röntgen",),
    ),
    "hotpotqa": (
        "hotpotqa question: Which Italian-American composer and librettist wrote the English "
        "language opera, Maria Golovin? context: [PAR] [TLE] Gian Carlo Menotti [SEP] Gian",
        ("Gian Carlo Menotti",),
    ),
}


def text_of(example: Example) -> str:
    return "".join(lead + value for lead, value in example.parts)


def real_rows(folder: Path, *splits: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Id and row of every row of these splits that the folder has."""
    import pyarrow.parquet as pq

    for split in splits:
        path = folder / f"{split}.parquet"
        if path.exists():
            for number, row in enumerate(pq.read_table(path).to_pylist()):
                yield f"{split}:{number}", row


@pytest.mark.parametrize("name", TASKS)
def test_golden_row(name: str) -> None:
    record, example = GOLDEN[name]
    assert TASKS[name].example("train:0", record) == example


@pytest.mark.parametrize("name", FIRST_ROWS)
def test_first_real_row(name: str, data_dir: Path) -> None:
    id, record = next(real_rows(data_dir / name, "train", "validation"))
    example = TASKS[name].example(id, record)
    start, label = FIRST_ROWS[name]
    assert text_of(example).startswith(start)
    assert example.label == label


@pytest.mark.parametrize("name", FIRST_ROWS)
def test_every_real_row_with_a_label(name: str, data_dir: Path) -> None:
    """Each is an example, and no text is lost but for space around it."""
    task, labels = TASKS[name], set()
    public = ["test"] if name in ("mrpc", "scitail") else []
    for id, record in real_rows(data_dir / name, "train", "validation", *public):
        example = task.example(id, record)
        assert len(example.parts) == len(task.kept)
        for column, (lead, value) in zip(task.columns, example.parts, strict=True):
            assert lead.endswith(f" {column}: ")
            assert value == record[column].strip()
        labels.add(example.label)
        if isinstance(example.label, tuple):
            assert example.label[0] == record["answers"]["text"][0]
            assert set(example.label) == set(record["answers"]["text"])
    if task.kind == "classes":
        assert labels == set(range(len(task.labels)))


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if not task.is_text])
def test_hidden_labels_are_refused(name: str) -> None:
    """As the test sets of GLUE and SuperGLUE have them: -1, of a score -1.0."""
    task, (record, _) = TASKS[name], GOLDEN[name]
    hidden = {**record, task.label_column: -1.0 if task.is_score else -1}
    with pytest.raises(ValueError, match=r"got -1(\.0)?; .*-1 marks hidden labels"):
        task.example("test:0", hidden)


def test_multirc_rows_with_an_empty_answer() -> None:
    """Three rows of its training set have none."""
    record, _ = GOLDEN["multirc"]
    example = TASKS["multirc"].example("train:0", {**record, "answer": ""})
    assert example.parts[1] == (" answer: ", "")


@pytest.mark.parametrize("name", TASKS)
def test_properties_of_every_task(name: str) -> None:
    task = TASKS[name]
    assert task.name == name
    assert {task.metric, *task.extra_metrics} <= set(METRICS)
    assert task.metric not in task.extra_metrics
    assert (task.kind == "classes") == bool(task.labels)
    assert len(set(task.words)) == len(task.words) == len(task.labels)
    assert all(word.isalpha() for word in task.words)
    # Other first letters, so other first tokens in any tokenizer.
    assert len({word[0] for word in task.words}) == len(task.labels)
    assert task.question.endswith(":")
    assert set(task.shown) <= set(task.columns)
    assert set(task.keep) < set(task.shown) or not task.keep
    assert name in GOLDEN, "tests/support/golden.py needs a row of it, and its example"
    assert len(task.kept) == len(GOLDEN[name][1].parts)
    assert {"text": "squad_f1", "score": "pearson"}.get(task.kind, task.metric) == task.metric


# What the paper (section 4.1, appendix A) says of its tasks.
LARGE = "qqp qnli sst2 squad record nq newsqa searchqa hotpotqa mnli".split()
SMALL = "cola rte mrpc stsb wic wsc.fixed boolq cb multirc scitail".split()
METRIC = {"stsb": "pearson", "cola": "matthews", "multirc": "f1"}
KEPT = {
    **{"multirc": (True, True, False), "squad": (True, False), "record": (True, False, False)},
    **{"wic": (False, False, True), "wsc.fixed": (False,), "rte": (False, False)},
}


@pytest.mark.parametrize("name", [*LARGE, *SMALL])
def test_the_protocol_of_the_paper(name: str) -> None:
    task = TASKS[name]
    assert task.splits == ("large" if name in LARGE else "small")
    assert task.metric == METRIC.get(name, "squad_f1" if task.is_text else "accuracy")
    assert task.max_length == (512 if task.is_text else 348 if name == "multirc" else 256)
    assert task.kept == KEPT.get(name, task.kept)


def test_a_recipe_has_the_length_of_its_task() -> None:
    for name, task in TASKS.items():
        assert BuiltinTask.model_validate({"kind": name}).max_length == task.max_length
        given = BuiltinTask.model_validate({"kind": name, "max_length": 99})
        assert given.max_length == 99
    assert BuiltinTask.model_validate({"kind": "squad", "max_length": None}).max_length == 512
    assert FileTask(**FILE).max_length == task_from(FileTask(**FILE, title="squad")).max_length
    assert FileTask(**FILE).max_length == 256


def test_switching_the_task_switches_its_length(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    text = "model: {kind: folder, path: m}\ntask: {kind: sst2}\nmethod: {kind: accept}\n"
    path.write_text(text + "train: {steps: 5}\n")
    changes = ["task.kind=squad", "head={kind: generate}"]
    assert load_recipe(path)[0].task.max_length == 256
    assert load_recipe(path, changes)[0].task.max_length == 512
    assert load_recipe(path, [*changes, "task.max_length=300"])[0].task.max_length == 300
    (path.parent / "resolved.yaml").write_text(dump_recipe(load_recipe(path, changes)[0]))
    assert "max_length: 512" in (path.parent / "resolved.yaml").read_text()


def test_the_schema_leaves_the_length_open() -> None:
    task = json.loads(schema())["$defs"]["BuiltinTask"]
    field = task["properties"]["max_length"]
    assert (field["type"], field["minimum"]) == ("integer", 1)
    assert "default" not in field
    assert "max_length" not in task["required"]


# --- labels and texts -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "value", "index"),
    [
        (["no", "yes"], "yes", 1),
        (["no", "yes"], "1", 1),
        (["no", "yes"], 1, 1),
        (["no", "yes"], 1.0, 1),
        (["no", "yes"], True, 1),
        (["no", "yes"], np.int64(1), 1),
        (["no", "yes"], np.bool_(True), 1),
        (["true", "false"], True, 0),
        (["True", "False"], False, 1),
        (["1", "2", "3"], 1, 0),
        (["1", "2", "3"], "3", 2),
        (["1", "2", "3"], 2.0, 1),
    ],
)
def test_label_by_name_or_index(labels: list[str], value: Any, index: int) -> None:
    spec = FileTask(kind="file", train="x.csv", text=["text"], label="label", labels=labels)
    assert task_from(spec).label(value) == index


@pytest.mark.parametrize(
    ("labels", "value", "message"),
    [
        (["no", "yes"], "yess", "label: got 'yess', did you mean 'yes'? allowed: no, yes, or 0 "),
        (["no", "yes"], 2, "label: got 2; allowed: no, yes, or 0 to 1"),
        (["no", "yes"], -1, "or 0 to 1 (-1 marks hidden labels, this split cannot be used)"),
        (["no", "yes"], 0.5, "label: got 0.5; allowed: no, yes"),
        (["no", "yes"], None, "label: got None; allowed: no, yes"),
        (["None", "some"], None, "label: got None; allowed: None, some"),
        (["None", "some"], "nan", "label: got 'nan'; allowed: None, some"),
        (["no", "yes"], float("nan"), "label: got nan; allowed"),
        (["no", "yes"], float("inf"), "label: got inf; allowed"),
        (["no", "yes"], ["yes"], "label: got ['yes']; allowed"),
        (["1", "2", "3"], 0, "label: got 0; allowed: 1, 2, 3"),
        (["no", "yes"], "0_1", "label: got '0_1'; allowed: no, yes, or 0 to 1"),
        (["no", "yes"], b"0_1", "label: got b'0_1'; allowed: no, yes, or 0 to 1"),
        (["no", "yes"], "inf", "label: got 'inf'; allowed: no, yes, or 0 to 1"),
    ],
)
def test_label_outside_the_task(labels: list[str], value: Any, message: str) -> None:
    spec = FileTask(kind="file", train="x.csv", text=["text"], label="label", labels=labels)
    with pytest.raises(ValueError) as caught:
        task_from(spec).label(value)
    assert message in str(caught.value)


@pytest.mark.parametrize("value", [-1.0, 5.01, float("nan"), None, "high", True, "0_1", "inf"])
def test_score_outside_the_task(value: Any) -> None:
    with pytest.raises(ValueError, match=r"label: got .*; allowed: a number from 0 to 5"):
        TASKS["stsb"].label(value)


def test_an_empty_text_is_kept_beside_another() -> None:
    record = {"sentence1": "", "sentence2": "Wet."}
    assert TASKS["rte"].parts(record) == (("rte sentence1: ", ""), (" sentence2: ", "Wet."))
    with pytest.raises(ValueError, match="sentence1 and sentence2: got no text"):
        TASKS["rte"].parts({"sentence1": " ", "sentence2": ""})
    zero_width = {"sentence1": "\u200b", "sentence2": " \ufeff\u200d"}
    assert TASKS["rte"].parts({**zero_width, "sentence2": "Wet\u200b."})[0][1] == ""
    with pytest.raises(ValueError, match="sentence1 and sentence2: got no text"):
        TASKS["rte"].parts(zero_width)


@pytest.mark.parametrize("value", [None, 7, ["a"]])
def test_text_must_be_text(value: Any) -> None:
    with pytest.raises(ValueError, match=r"sentence2: got .*; allowed: text"):
        TASKS["rte"].parts({"sentence1": "Wet.", "sentence2": value})


def test_file_task() -> None:
    spec = FileTask(
        kind="file", train="x.csv", text=["head", "body"], label="kind", labels=["a", "b"],
        title="mail", question="kind:", metric="f1",
    )  # fmt: skip
    task = task_from(spec)
    assert (task.words, task.question, task.metric) == (("a", "b"), "kind:", "f1")
    example = task.example("train:0", {"head": "Hi", "body": "Bye", "kind": "b"})
    assert example == Example("train:0", (("mail head: ", "Hi"), (" body: ", "Bye")), 1)
    with pytest.raises(RecipeError, match=r"task.label: got 'head'; allowed: a column not in"):
        task_from(spec.model_copy(update={"label": "head"}))


# --- answers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "answers"),
    [
        (["Assam"], ("Assam",)),
        (["Assam", "tea", "Assam"], ("Assam", "tea")),
        (["", " ", "\u200b", "Assam\n"], ("Assam",)),
        (("Assam",), ("Assam",)),
        ({"text": ["Assam", "tea"], "answer_start": [0, 6]}, ("Assam", "tea")),
        (["Ａssam", "São  Paulo", "sa\u0303o"], ("Ａssam", "São  Paulo", "sa\u0303o")),
    ],
)
def test_gold_answers(value: Any, answers: tuple[str, ...]) -> None:
    assert TASKS["squad"].label(value) == answers


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "answers: got []; allowed: at least one text (an empty list marks hidden answers"),
        ({"text": []}, "answers: got {'text': []}; allowed: at least one text (an empty list"),
        ([""], "answers: got ['']; allowed: at least one text"),
        ("Assam", "answers: got 'Assam'; allowed: a list of texts, or a mapping with such a"),
        (["Assam", 1912], "answers: got ['Assam', 1912]; allowed: a list of texts"),
        ([None], "answers: got [None]; allowed: a list of texts"),
        (None, "answers: got None; allowed: a list of texts"),
        ({"answer_start": [3]}, "answers: got {'answer_start': [3]}; allowed: a list of texts"),
        (-1, "answers: got -1; allowed: a list of texts"),
    ],
)
def test_no_gold_answer(value: Any, message: str) -> None:
    for name in ("squad", "record"):
        with pytest.raises(ValueError) as caught:
            TASKS[name].label(value)
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("score", "text"),
    [
        *((0.0, "0.0"), (5.0, "5.0"), (3.8, "3.8"), (3.75, "3.8"), (2.6666667, "2.6")),
        *((0.09, "0.0"), (0.11, "0.2"), (4.91, "5.0"), (4.89, "4.8"), (0.5, "0.4"), (3.5, "3.6")),
    ],
)
def test_a_score_as_text(score: float, text: str) -> None:
    assert score_text(score) == text


def test_a_score_reads_back() -> None:
    for fifths in range(26):
        assert read_score(score_text(fifths / 5)) == fifths / 5
    for score in np.random.default_rng(0).uniform(0, 5, 200).tolist():
        assert abs(read_score(score_text(score)) - score) <= 0.1 + 1e-9


@pytest.mark.parametrize(
    ("text", "score"),
    [
        *(("3.8", 3.8), (" 3.8 ", 3.8), ("a 4, or 2", 4.0), ("4.", 4.0), (".6", 0.6), ("+2", 2.0)),
        *(("7", 5.0), ("-3.2", 0.0), ("1" * 400, 5.0), ("3.8.1", 3.8), ("3,8", 3.0)),
        *(("", 0.0), ("nan", 0.0), ("four", 0.0), ("-", 0.0), (".", 0.0), ("٣", 0.0)),
    ],
)
def test_the_score_in_a_text(text: str, score: float) -> None:
    assert read_score(text) == score


# --- imports ----------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["accept_llm.tasks", "accept_llm.data"])
def test_import_loads_no_heavy_library(module: str) -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'sklearn', 'scipy', 'pandas', 'pyarrow'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
