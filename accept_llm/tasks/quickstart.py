"""The quick-start task, whose rows come with the package."""

from accept_llm.tasks.base import Task

QUICKSTART = Task(
    name="quickstart",
    labels=("negative", "positive"),
    words=("negative", "positive"),
    question="sentiment:",
    metric="accuracy",
    columns=("text",),
    label_column="label",
    hub=None,
    splits="given",
)
