"""The SuperGLUE tasks. Names of labels and columns are those of `aps/super_glue` on the Hub."""

from accept_llm.tasks.base import Task

BOOLQ = Task(
    name="boolq",
    labels=("False", "True"),
    words=("no", "yes"),
    question="answer:",
    metric="accuracy",
    columns=("question", "passage"),
    label_column="label",
    hub=("aps/super_glue", "boolq"),
    small=True,
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
    small=True,
)
