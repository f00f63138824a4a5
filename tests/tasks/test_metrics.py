"""The metrics against plain formulas, their libraries, and a table worked out by hand."""

import re
import string
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accept_llm.tasks.metrics import METRICS, measure


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


def test_the_average_follows_the_task_s_classes_not_those_that_occur() -> None:
    labels = [0] * 7 + [1] * 3
    assert measure("f1", labels, predictions=[0] * 10, classes=2) == 0.0
    # Of class 0: 7 of 7 found, 3 too many. Of class 1: none. The third class does not occur.
    assert measure("f1", labels, predictions=[0] * 10, classes=3) == pytest.approx(
        (14 / 17 + 0) / 2
    )
    # Class 0: 6 of 7, 3 too many; class 1: none; class 2: none.
    third = [0] * 6 + [2] + [0] * 3
    assert measure("f1", labels, predictions=third, classes=3) == pytest.approx(12 / 16 / 3)


@settings(deadline=None)
@given(pairs(3))
def test_macro_f1(rows: list[tuple[int, int]]) -> None:
    labels, predictions = map(list, zip(*rows, strict=True))
    scores = []
    for index in set(labels) | set(predictions):
        tp, fp, fn = confusion(rows, index)
        scores.append(2 * tp / (2 * tp + fp + fn))
    want = pytest.approx(sum(scores) / len(scores))
    assert measure("f1", labels, predictions=predictions, classes=3) == want


def test_metrics_agree_with_their_libraries() -> None:
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 3, (2, 200)).tolist()
    assert METRICS["accuracy"](labels, predictions) == accuracy_score(labels, predictions)
    want = f1_score(labels, predictions, average="macro")
    assert measure("f1", labels, predictions=predictions, classes=3) == want
    assert METRICS["matthews"](labels, predictions) == matthews_corrcoef(labels, predictions)
    scores, guesses = rng.normal(size=(2, 200)).tolist()
    assert METRICS["pearson"](scores, guesses) == pearsonr(scores, guesses).statistic
    assert METRICS["pearson"](scores, guesses) == pytest.approx(np.corrcoef(scores, guesses)[0, 1])
    tied = np.round(guesses).tolist()
    assert METRICS["spearman"](scores, tied) == spearmanr(scores, tied).statistic
    ranks = [np.argsort(np.argsort(values)) for values in (scores, guesses)]
    assert METRICS["spearman"](scores, guesses) == pytest.approx(np.corrcoef(*ranks)[0, 1])


@pytest.mark.parametrize("name", ["pearson", "spearman", "matthews"])
@pytest.mark.filterwarnings("error")
def test_a_constant_has_no_correlation(name: str) -> None:
    for labels, predictions in [([0, 1, 1], [1, 1, 1]), ([1, 1], [0, 1]), ([1], [1])]:
        assert METRICS[name](labels, predictions) == 0.0
    assert METRICS[name]([0, 1, 0], [0, 1, 0]) == pytest.approx(1.0)
    assert METRICS[name]([0, 1, 0], [1, 0, 1]) == pytest.approx(-1.0)


# --- texts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("golds", "said", "f1", "exact"),
    [
        (["Paris"], "Paris", 1, 1),
        (["Paris"], "paris.", 1, 1),
        (["The  Eiffel\tTower!"], "an eiffel tower", 1, 1),  # articles, case, punctuation, space
        (["Paris"], "London", 0, 0),
        (["in Paris"], "Paris", 2 / 3, 0),  # precision 1, recall 1/2
        (["Paris, France"], "Paris in France today", 2 * 0.5 * 1 / 1.5, 0),
        (["new new york"], "new york york", 2 / 3, 0),  # counted with repeats: 2 of 3 and 3
        (["Rome", "city of Rome", "roma"], "the city of Rome", 1, 1),  # the best gold
        (["Rome", "Milan, Italy"], "Milan", 2 / 3, 0),
        (["U.S."], "US", 1, 1),  # a full stop joins
        (["the-end"], "theend", 1, 1),  # punctuation goes first, so this article stays
        (["the-end"], "end", 0, 0),
        (["a"], "the", 0, 1),  # nothing is left of either: equal, with nothing shared
        (["Paris"], "", 0, 0),
        (["Paris"], "the", 0, 0),
        (["the"], "Paris", 0, 0),
        (["Thea an"], "thea", 1, 1),  # an article is a whole word
        (["1912"], "1,912", 1, 1),
        (["Röntgen"], "röntgen", 1, 1),
        (["Röntgen"], "Rontgen", 0, 0),
        (["Ro\u0308ntgen"], "R\u00f6ntgen", 0, 0),  # nothing is composed
        (["茶"], "“茶”", 0, 0),  # only ASCII punctuation goes
        (["24–10"], "2410", 0, 0),
        (["24-10"], "2410", 1, 1),
        (["a–b"], "–b", 1, 1),  # a dash ends a word, and the article before it goes
    ],
)
def test_texts_by_hand(golds: Sequence[str], said: str, f1: float, exact: float) -> None:
    row = [tuple(golds)]
    assert METRICS["squad_f1"](row, [said]) == pytest.approx(f1)
    assert METRICS["exact_match"](row, [said]) == exact


def test_texts_are_averaged_over_rows() -> None:
    golds, said = [("Paris",), ("in Rome", "Rome"), ("blue",), ("red",)], ["Paris", "Rome", "", "x"]
    assert METRICS["squad_f1"](golds, said) == 0.5
    assert METRICS["exact_match"](golds, said) == 0.5
    assert METRICS["squad_f1"]([("in Rome",), ("red",)], ["Rome", "red"]) == pytest.approx(5 / 6)
    for name in ("squad_f1", "exact_match"):
        with pytest.raises(AssertionError):
            METRICS[name](golds, said[:3])


def slow_words(text: str) -> list[str]:
    """SQuAD's normal form, letter by letter."""
    letters = [c for c in text.lower() if c not in string.punctuation]
    return [w for w in re.split(r"\s+", "".join(letters)) if w and w not in ("a", "an", "the")]


def slow_f1(gold: list[str], said: list[str]) -> float:
    left, shared = list(gold), 0
    for word in said:
        if word in left:
            left.remove(word)
            shared += 1
    if not shared:
        return 0.0
    precision, recall = shared / len(said), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


WORD = st.sampled_from(
    ["a", "The", "an", "cat", "Cat,", "dog", "(dog)", "dog-cat", "ö", "...", "x"]
)
TEXT = st.lists(WORD, max_size=6).map(" ".join)


@given(st.lists(st.tuples(st.lists(TEXT, min_size=1, max_size=3), TEXT), min_size=1, max_size=5))
def test_texts_against_a_slow_reference(rows: list[tuple[list[str], str]]) -> None:
    golds, said = [tuple(g) for g, _ in rows], [text for _, text in rows]
    f1, exact = 0.0, 0
    for texts, guess in rows:
        f1 += max(slow_f1(slow_words(gold), slow_words(guess)) for gold in texts)
        exact += any(slow_words(gold) == slow_words(guess) for gold in texts)
    assert METRICS["squad_f1"](golds, said) == pytest.approx(f1 / len(rows))
    assert METRICS["exact_match"](golds, said) == exact / len(rows)
