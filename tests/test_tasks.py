"""Each task's text form and labels on golden rows; the metrics against plain formulas."""

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accept_llm.recipe import FileTask, TaskName
from accept_llm.recipe_errors import RecipeError
from accept_llm.tasks import METRICS, TASKS, Example, task_from

GOLDEN: dict[str, tuple[dict[str, Any], Example]] = {
    "sst2": (
        {"sentence": "a dull film ", "label": 0, "idx": 7},
        Example("train:0", (("sst2 sentence: ", "a dull film"),), 0),
    ),
    "cola": (
        {"sentence": "The book what he read.", "label": 0, "idx": 7},
        Example("train:0", (("cola sentence: ", "The book what he read."),), 0),
    ),
    "rte": (
        {"sentence1": "It rained.", "sentence2": "It was wet.", "label": 1, "idx": 7},
        Example("train:0", (("rte sentence1: ", "It rained."), (" sentence2: ", "It was wet.")), 1),
    ),
    "mrpc": (
        {"sentence1": "He left.", "sentence2": "He went.", "label": 1, "idx": 7},
        Example("train:0", (("mrpc sentence1: ", "He left."), (" sentence2: ", "He went.")), 1),
    ),
    "stsb": (
        {"sentence1": "A cat.", "sentence2": "A dog.", "label": 1.25, "idx": 7},
        Example("train:0", (("stsb sentence1: ", "A cat."), (" sentence2: ", "A dog.")), 1.25),
    ),
    "cb": (
        {"premise": "He thinks so.", "hypothesis": "It is so.", "label": 2, "idx": 7},
        Example("train:0", (("cb premise: ", "He thinks so."), (" hypothesis: ", "It is so.")), 2),
    ),
    "boolq": (
        {"question": "is tea a plant", "passage": "Tea -- Tea is a drink.", "label": 0, "idx": 7},
        Example(
            "train:0",
            (("boolq question: ", "is tea a plant"), (" passage: ", "Tea -- Tea is a drink.")),
            0,
        ),
    ),
    "quickstart": (
        {"text": "The kettle works.", "label": "positive"},
        Example("train:0", (("quickstart text: ", "The kettle works."),), 1),
    ),
}

# The start of the first training row of each data set, as published.
FIRST_ROWS: dict[str, tuple[str, int | float]] = {
    "sst2": ("sst2 sentence: hide new secretions from the parental units", 0),
    "cola": ("cola sentence: Our friends won't buy this analysis, let alone", 1),
    "rte": ("rte sentence1: No Weapons of Mass Destruction Found in Iraq Yet. sentence2: Wea", 1),
    "mrpc": ("mrpc sentence1: Amrozi accused his brother, whom he called", 1),
    "stsb": ("stsb sentence1: A plane is taking off. sentence2: An air plane is taking off.", 5.0),
    "cb": ("cb premise: It was a complex language. Not written down but handed down. One", 0),
    "boolq": ("boolq question: ", 0),
}


def text_of(example: Example) -> str:
    return "".join(lead + value for lead, value in example.parts)


@pytest.mark.parametrize("name", TASKS)
def test_golden_row(name: str) -> None:
    record, example = GOLDEN[name]
    assert TASKS[name].example("train:0", record) == example


@pytest.mark.parametrize("name", FIRST_ROWS)
def test_first_real_row(name: str, data_dir: Path) -> None:
    import pyarrow.parquet as pq

    record = pq.read_table(data_dir / name / "train.parquet").slice(0, 1).to_pylist()[0]
    example = TASKS[name].example("train:0", record)
    start, label = FIRST_ROWS[name]
    assert text_of(example).startswith(start)
    assert example.label == label


def test_the_table_is_whole() -> None:
    assert set(TASKS) == set(get_args(TaskName)) == set(GOLDEN)
    for name, task in TASKS.items():
        assert task.name == name
        assert task.metric in METRICS
        assert task.is_score == (name == "stsb")
        assert len(set(task.words)) == len(task.words) == len(task.labels)
        assert all(word.isalpha() for word in task.words)
        # Other first letters, so other first tokens in any tokeniser.
        assert len({word[0] for word in task.words}) == len(task.labels)
        assert task.question.endswith(":")
    assert {n for n, t in TASKS.items() if t.metric != "accuracy"} == {"cola", "stsb"}
    assert {n for n, t in TASKS.items() if not t.small} == {"sst2"}


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
    ],
)
def test_label_outside_the_task(labels: list[str], value: Any, message: str) -> None:
    spec = FileTask(kind="file", train="x.csv", text=["text"], label="label", labels=labels)
    with pytest.raises(ValueError) as caught:
        task_from(spec).label(value)
    assert message in str(caught.value)


@pytest.mark.parametrize("value", [-1.0, 5.01, float("nan"), None, "high", True])
def test_score_outside_the_task(value: Any) -> None:
    with pytest.raises(ValueError, match=r"label: got .*; allowed: a number from 0 to 5"):
        TASKS["stsb"].label(value)


def test_an_empty_text_is_kept_beside_another() -> None:
    record = {"sentence1": "", "sentence2": "Wet."}
    assert TASKS["rte"].parts(record) == (("rte sentence1: ", ""), (" sentence2: ", "Wet."))
    with pytest.raises(ValueError, match="sentence1 and sentence2: got no text"):
        TASKS["rte"].parts({"sentence1": " ", "sentence2": ""})


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


# --- metrics ----------------------------------------------------------------------------


def pairs(most: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    index = st.integers(0, most)
    return st.lists(st.tuples(index, index), min_size=1, max_size=50)


def confusion(rows: list[tuple[int, int]], positive: int) -> tuple[int, int, int]:
    """True positives, false positives, false negatives."""
    hits = sum(label == guess == positive for label, guess in rows)
    labelled = sum(label == positive for label, _ in rows)
    guessed = sum(guess == positive for _, guess in rows)
    return hits, guessed - hits, labelled - hits


@settings(deadline=None)  # the first example imports scikit-learn
@given(pairs(1))
def test_binary_metrics(rows: list[tuple[int, int]]) -> None:
    labels, predictions = map(list, zip(*rows, strict=True))
    tp, fp, fn = confusion(rows, 1)
    tn = len(rows) - tp - fp - fn
    assert METRICS["accuracy"](labels, predictions) == pytest.approx((tp + tn) / len(rows))
    f1 = 2 * tp / (2 * tp + fp + fn) if tp else 0.0
    assert METRICS["f1"](labels, predictions) == pytest.approx(f1)
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    matthews = (tp * tn - fp * fn) / product**0.5 if product else 0.0
    assert METRICS["matthews"](labels, predictions) == pytest.approx(matthews)


@settings(deadline=None)
@given(pairs(3).filter(lambda rows: max(map(max, rows)) > 1))
def test_macro_f1(rows: list[tuple[int, int]]) -> None:
    labels, predictions = map(list, zip(*rows, strict=True))
    scores = []
    for index in set(labels) | set(predictions):
        tp, fp, fn = confusion(rows, index)
        scores.append(2 * tp / (2 * tp + fp + fn))
    assert METRICS["f1"](labels, predictions) == pytest.approx(sum(scores) / len(scores))


def test_metrics_agree_with_their_libraries() -> None:
    from scipy.stats import pearsonr
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 3, (2, 200)).tolist()
    assert METRICS["accuracy"](labels, predictions) == accuracy_score(labels, predictions)
    assert METRICS["f1"](labels, predictions) == f1_score(labels, predictions, average="macro")
    assert METRICS["matthews"](labels, predictions) == matthews_corrcoef(labels, predictions)
    scores, guesses = rng.normal(size=(2, 200)).tolist()
    assert METRICS["pearson"](scores, guesses) == pearsonr(scores, guesses).statistic
    assert METRICS["pearson"](scores, guesses) == pytest.approx(np.corrcoef(scores, guesses)[0, 1])


@pytest.mark.parametrize("name", ["pearson", "matthews"])
@pytest.mark.filterwarnings("error")
def test_a_constant_has_no_correlation(name: str) -> None:
    for labels, predictions in [([0, 1, 1], [1, 1, 1]), ([1, 1], [0, 1]), ([1], [1])]:
        assert METRICS[name](labels, predictions) == 0.0
    assert METRICS[name]([0, 1, 0], [0, 1, 0]) == pytest.approx(1.0)
    assert METRICS[name]([0, 1, 0], [1, 0, 1]) == pytest.approx(-1.0)


# --- imports ----------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["accept_llm.tasks", "accept_llm.data"])
def test_import_loads_no_heavy_library(module: str) -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'sklearn', 'scipy', 'pandas', 'pyarrow'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
