"""SciTail. Names of labels and columns are those of `allenai/scitail` on the Hub."""

from accept_llm.tasks.base import Task

SCITAIL = Task(
    name="scitail",
    labels=("entails", "neutral"),
    words=("yes", "no"),
    question="entailed:",
    metric="accuracy",
    columns=("premise", "hypothesis"),
    label_column="label",
    hub=("allenai/scitail", "tsv_format"),
    splits="small",
)
