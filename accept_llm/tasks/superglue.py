"""The SuperGLUE tasks. Names of labels and columns are those of `aps/super_glue` on the Hub."""

import re
import reprlib
from typing import Any

from accept_llm.tasks.base import Parts, Record, Task, text_of, text_parts

# --- rows -------------------------------------------------------------------------------

# In some releases sentences are numbered, <b>Sent 1: </b>, and end with <br>.
_BREAK = re.compile(r"\s*(?:(?:<br\s*/?>|<b>\s*Sent [0-9]+:\s*</b>)\s*)+")
_TAG = re.compile(r"</?[bi]>")


def multirc_parts(task: Task, record: Record) -> Parts:
    """The parts as `text_parts` has them, without the paragraph's markup."""
    paragraph = text_of(record, "paragraph")
    if "<" in paragraph:
        paragraph = _TAG.sub("", _BREAK.sub(" ", paragraph))
    return text_parts(task, {**record, "paragraph": paragraph})


def record_parts(task: Task, record: Record) -> Parts:
    """The parts as `text_parts` has them; entities are one line, and highlights are sentences."""
    entities = record.get("entities")
    if not isinstance(entities, list) or not all(isinstance(name, str) for name in entities):
        raise ValueError(f"entities: got {reprlib.repr(entities)}; allowed: a list of texts")
    passage = _with_highlights(text_of(record, "passage"))
    return text_parts(task, {**record, "entities": ", ".join(entities), "passage": passage})


def _with_highlights(passage: str) -> str:
    """The passage with its @highlight lines as sentences: a full stop where one ends without."""
    whole = ""
    for part in re.split(r"\s*@highlight\s*", passage):
        stop = "" if not whole or whole[-1] in ".?!\"'" else "."
        whole += f"{stop} {part}" if whole else part
    return whole


def wsc_parts(task: Task, record: Record) -> Parts:
    """The text with *span 1* and #span 2# marked, as T5 does it; ValueError as `span_of`."""
    text = text_of(record, "text")
    marks = []
    for span, mark in (("span1", "*"), ("span2", "#")):
        start, end = span_of(record, span)
        # At the same place an end comes before a start, and a span inside another within it.
        marks += [(start, 1, -end, mark), (end, 0, -start, mark)]
    for place, _, _, mark in sorted(marks, reverse=True):
        text = text[:place] + mark + text[place:]
    return text_parts(task, {**record, "text": text})


def span_of(record: Record, span: str) -> tuple[int, int]:
    """The place of a WSC row's span in its text: first character and end.

    <span>_index counts words from 0. Some rows spell the span otherwise than the text does, or
    count otherwise: it is the words of <span>_text, but for case and punctuation, that are
    nearest to the index; where they are nowhere, as many words from the index on. ValueError
    where the index is not that of a word.
    """
    text, span_text = text_of(record, "text"), text_of(record, f"{span}_text")
    words = [match.span() for match in re.finditer(r"\S+", text)]
    index = _word_index(record.get(f"{span}_index"), f"{span}_index", count=len(words))
    spoken = re.findall(r"\w+", span_text)
    if spoken:
        pattern = r"(?<!\w)" + r"\W+".join(map(re.escape, spoken)) + r"(?!\w)"
        found = [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)]
        if found:
            return min(found, key=lambda at: abs(sum(end <= at[0] for _, end in words) - index))
    last = min(index + max(len(span_text.split()), 1), len(words)) - 1
    return words[index][0], words[last][1]


def _word_index(value: Any, column: str, *, count: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < count:
        allowed = f"the place of a word of text, 0 to {count - 1}"
        raise ValueError(f"{column}: got {reprlib.repr(value)}; allowed: {allowed}")
    return value


# --- tasks ------------------------------------------------------------------------------

BOOLQ = Task(
    name="boolq",
    labels=("False", "True"),
    words=("no", "yes"),
    question="answer:",
    metric="accuracy",
    columns=("question", "passage"),
    label_column="label",
    hub=("aps/super_glue", "boolq"),
    splits="small",
    keep=("question",),
)

CB = Task(
    name="cb",
    labels=("entailment", "contradiction", "neutral"),
    words=("yes", "no", "maybe"),
    question="entailed:",
    metric="accuracy",
    columns=("premise", "hypothesis"),
    label_column="label",
    hub=("aps/super_glue", "cb"),
    splits="small",
    extra_metrics=("f1",),
)

MULTIRC = Task(
    name="multirc",
    labels=("False", "True"),
    words=("no", "yes"),
    question="correct:",
    metric="f1",
    columns=("question", "answer", "paragraph"),
    label_column="label",
    hub=("aps/super_glue", "multirc"),
    splits="small",
    max_length=348,  # as in the paper
    format_row=multirc_parts,
    extra_metrics=("accuracy",),
    keep=("question", "answer"),
)

WIC = Task(
    name="wic",
    labels=("False", "True"),
    words=("no", "yes"),
    question="same meaning:",
    metric="accuracy",
    columns=("sentence1", "sentence2", "word"),
    label_column="label",
    hub=("aps/super_glue", "wic"),
    splits="small",
    keep=("word",),
)

WSC = Task(
    name="wsc.fixed",
    labels=("False", "True"),
    words=("no", "yes"),
    question="same:",
    metric="accuracy",
    columns=("text", "span1_index", "span2_index", "span1_text", "span2_text"),
    label_column="label",
    hub=("aps/super_glue", "wsc.fixed"),
    splits="small",
    format_row=wsc_parts,
    marked="text",
    folders=("wsc",),
)

RECORD = Task(
    name="record",
    labels=(),
    words=(),
    question="answer:",
    metric="squad_f1",
    columns=("query", "entities", "passage"),
    label_column="answers",
    hub=("aps/super_glue", "record"),
    splits="large",
    max_length=512,
    format_row=record_parts,
    kind="text",
    extra_metrics=("exact_match",),
    keep=("query",),
)
