"""The GLUE tasks. Names of labels and columns are those of `nyu-mll/glue` on the Hub."""

from accept_llm.tasks.base import Task

SST2 = Task(
    name="sst2",
    labels=("negative", "positive"),
    words=("negative", "positive"),
    question="sentiment:",
    metric="accuracy",
    columns=("sentence",),
    label_column="label",
    hub=("nyu-mll/glue", "sst2"),
    splits="large",
)

COLA = Task(
    name="cola",
    labels=("unacceptable", "acceptable"),
    words=("no", "yes"),
    question="acceptable:",
    metric="matthews",
    columns=("sentence",),
    label_column="label",
    hub=("nyu-mll/glue", "cola"),
    splits="small",
)

RTE = Task(
    name="rte",
    labels=("entailment", "not_entailment"),
    words=("yes", "no"),
    question="entailed:",
    metric="accuracy",
    columns=("sentence1", "sentence2"),
    label_column="label",
    hub=("nyu-mll/glue", "rte"),
    splits="small",
)

MRPC = Task(
    name="mrpc",
    labels=("not_equivalent", "equivalent"),
    words=("no", "yes"),
    question="same meaning:",
    metric="accuracy",
    columns=("sentence1", "sentence2"),
    label_column="label",
    hub=("nyu-mll/glue", "mrpc"),
    splits="small",
    extra_metrics=("f1",),
)

QQP = Task(
    name="qqp",
    labels=("not_duplicate", "duplicate"),
    words=("no", "yes"),
    question="duplicate:",
    metric="accuracy",
    columns=("question1", "question2"),
    label_column="label",
    hub=("nyu-mll/glue", "qqp"),
    splits="large",
    extra_metrics=("f1",),
)

MNLI = Task(
    name="mnli",
    labels=("entailment", "neutral", "contradiction"),
    words=("yes", "maybe", "no"),
    question="entailed:",
    metric="accuracy",
    columns=("premise", "hypothesis"),
    label_column="label",
    hub=("nyu-mll/glue", "mnli"),
    splits="large",
    hub_splits={"validation": "validation_matched", "test": "test_matched"},
)

QNLI = Task(
    name="qnli",
    labels=("entailment", "not_entailment"),
    words=("yes", "no"),
    question="answered:",
    metric="accuracy",
    columns=("question", "sentence"),
    label_column="label",
    hub=("nyu-mll/glue", "qnli"),
    splits="large",
    keep=("question",),
)

STSB = Task(
    name="stsb",
    labels=(),
    words=(),
    question="similarity:",
    metric="pearson",
    columns=("sentence1", "sentence2"),
    label_column="label",
    hub=("nyu-mll/glue", "stsb"),
    splits="small",
    kind="score",
    extra_metrics=("spearman",),
)
