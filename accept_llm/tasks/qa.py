"""Extractive question answering. Names of columns are those of `rajpurkar/squad` and of the
MRQA 2019 sets of `lucadiliello` on the Hub.

`answers` is a list of texts there, and {text, answer_start} in SQuAD's own schema; each set may
come in either. MRQA's marks in a context ([PAR], [TLE], [SEP]) stay as they are.
"""

from accept_llm.tasks.base import Task


def _qa(name: str, repository: str) -> Task:
    return Task(
        name=name,
        labels=(),
        words=(),
        question="answer:",
        metric="squad_f1",
        columns=("question", "context"),
        label_column="answers",
        hub=(repository, None),
        splits="large",
        max_length=512,
        kind="text",
        extra_metrics=("exact_match",),
        keep=("question",),
    )


NQ = _qa("nq", "lucadiliello/naturalquestionsshortqa")
HOTPOTQA = _qa("hotpotqa", "lucadiliello/hotpotqa")
SEARCHQA = _qa("searchqa", "lucadiliello/searchqa")
NEWSQA = _qa("newsqa", "lucadiliello/newsqa")
SQUAD = _qa("squad", "rajpurkar/squad")
