"""The metrics, by name: fractions from 0 to 1, correlations from -1 to 1.

Each takes labels and predictions of equal length n > 0: class indices; scores for pearson and
spearman; for squad_f1 and exact_match each row's gold answers, and the texts said.
The paper's choice is Pearson for STS-B, Matthews for CoLA, F1 for MultiRC and the QA tasks, and
accuracy elsewhere.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

Numbers = Sequence[int] | Sequence[float]
Golds = Sequence[Sequence[str]]
Metric = Callable[..., float]


def _checked(labels: Numbers, predictions: Numbers) -> bool:
    """Whether both vary; a correlation with a constant is undefined, and counts as 0 here."""
    assert len(labels) == len(predictions) > 0, (len(labels), len(predictions))
    return all(any(x != values[0] for x in values) for values in (labels, predictions))


def accuracy(labels: Numbers, predictions: Numbers) -> float:
    """The share of rows whose class is right."""
    from sklearn.metrics import accuracy_score

    _checked(labels, predictions)
    return float(accuracy_score(labels, predictions))


def f1(labels: Numbers, predictions: Numbers, *, classes: int = 2) -> float:
    """F1 of class 1 in a task of two classes; of more, the mean over those that occur (macro). A
    class that is never right has 0."""
    from sklearn.metrics import f1_score

    _checked(labels, predictions)
    average = "binary" if classes == 2 else "macro"
    return float(f1_score(labels, predictions, average=average, zero_division=0))


def matthews(labels: Numbers, predictions: Numbers) -> float:
    """Matthews correlation; 0 where the labels or the predictions are all the same."""
    from sklearn.metrics import matthews_corrcoef

    varies = _checked(labels, predictions)
    return float(matthews_corrcoef(labels, predictions)) if varies else 0.0


def pearson(labels: Numbers, predictions: Numbers) -> float:
    """Pearson correlation; 0 where the labels or the predictions are all the same."""
    from scipy.stats import pearsonr

    varies = _checked(labels, predictions)
    return float(pearsonr(labels, predictions).statistic) if varies else 0.0


def spearman(labels: Numbers, predictions: Numbers) -> float:
    """Spearman rank correlation; 0 where the labels or the predictions are all the same."""
    from scipy.stats import spearmanr

    varies = _checked(labels, predictions)
    return float(spearmanr(labels, predictions).statistic) if varies else 0.0


# --- texts ------------------------------------------------------------------------------

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only, as in SQuAD's script


def _words(text: str) -> list[str]:
    """The words that count in SQuAD v1.1: lower case, then no punctuation, then no articles.

    The order matters: "the-end" is one word, theend, and keeps its article.
    """
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def _overlap(gold: list[str], words: list[str]) -> float:
    """F1 of two bags of words; 0 where none is shared."""
    shared = (Counter(gold) & Counter(words)).total()
    return 2 * shared / (len(gold) + len(words)) if shared else 0.0


def _mean_of_best(
    one: Callable[[list[str], list[str]], float], golds: Golds, *, texts: Sequence[str]
) -> float:
    """Each row has the best of its golds."""
    assert len(golds) == len(texts) > 0, (len(golds), len(texts))
    pairs = zip(golds, map(_words, texts), strict=True)
    return sum(max(one(_words(gold), words) for gold in row) for row, words in pairs) / len(texts)


def squad_f1(labels: Golds, predictions: Sequence[str]) -> float:
    """Mean F1 over words, as SQuAD v1.1 has it. Where gold and prediction have no word left, such
    as "the" and "The", nothing is shared and F1 is 0, though `exact_match` is 1."""
    return _mean_of_best(_overlap, labels, texts=predictions)


def exact_match(labels: Golds, predictions: Sequence[str]) -> float:
    """The share of texts that equal a gold answer but for case, punctuation, articles and space,
    as SQuAD v1.1 has it."""
    return _mean_of_best(lambda gold, words: float(gold == words), labels, texts=predictions)


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    "squad_f1": squad_f1,
    "exact_match": exact_match,
}


def measure(name: str, labels: Sequence[Any], *, predictions: Sequence[Any], classes: int) -> float:
    """A metric in a task of so many classes, whichever of them occur here."""
    if name == "f1":
        return f1(labels, predictions, classes=classes)
    return METRICS[name](labels, predictions)
