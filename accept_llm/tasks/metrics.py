"""The metrics, by name: fractions from 0 to 1, correlations from -1 to 1.

Each takes labels and predictions of equal length n > 0: class indices, or scores for pearson.
The paper's choice is Pearson for STS-B, Matthews for CoLA and accuracy elsewhere.
"""

from collections.abc import Callable, Sequence

Numbers = Sequence[int] | Sequence[float]
Metric = Callable[[Numbers, Numbers], float]


def _checked(labels: Numbers, predictions: Numbers) -> bool:
    """Whether both vary; a correlation with a constant is undefined, and counts as 0 here."""
    assert len(labels) == len(predictions) > 0, (len(labels), len(predictions))
    return all(any(x != values[0] for x in values) for values in (labels, predictions))


def accuracy(labels: Numbers, predictions: Numbers) -> float:
    """The share of rows whose class is right."""
    from sklearn.metrics import accuracy_score

    _checked(labels, predictions)
    return float(accuracy_score(labels, predictions))


def f1(labels: Numbers, predictions: Numbers) -> float:
    """F1 of class 1 for two classes; with a class index above 1, the mean over the classes
    that occur (macro). A class that is never right has 0."""
    from sklearn.metrics import f1_score

    _checked(labels, predictions)
    average = "binary" if max(*labels, *predictions) <= 1 else "macro"
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


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
}
