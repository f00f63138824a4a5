"""The tasks: what they read, how a row becomes text, how they are scored.

TASKS is the one table; a recipe's `kind: file` makes a task of its own.
"""

from accept_llm.recipe import BuiltinTask, FileTask
from accept_llm.tasks.base import Example, Label, Parts, Task, read_score, score_text
from accept_llm.tasks.files import QUICKSTART, file_task
from accept_llm.tasks.glue import COLA, MNLI, MRPC, QNLI, QQP, RTE, SST2, STSB
from accept_llm.tasks.metrics import METRICS
from accept_llm.tasks.qa import HOTPOTQA, NEWSQA, NQ, SEARCHQA, SQUAD
from accept_llm.tasks.scitail import SCITAIL
from accept_llm.tasks.superglue import BOOLQ, CB, MULTIRC, RECORD, WIC, WSC

__all__ = [
    "METRICS",
    "TASKS",
    "Example",
    "Label",
    "Parts",
    "Task",
    "read_score",
    "score_text",
    "task_from",
]

TASKS: dict[str, Task] = {
    "sst2": SST2,
    "cola": COLA,
    "rte": RTE,
    "mrpc": MRPC,
    "qqp": QQP,
    "mnli": MNLI,
    "qnli": QNLI,
    "stsb": STSB,
    "cb": CB,
    "boolq": BOOLQ,
    "multirc": MULTIRC,
    "wic": WIC,
    "wsc.fixed": WSC,
    "record": RECORD,
    "nq": NQ,
    "hotpotqa": HOTPOTQA,
    "searchqa": SEARCHQA,
    "newsqa": NEWSQA,
    "squad": SQUAD,
    "scitail": SCITAIL,
    "quickstart": QUICKSTART,
}


def task_from(spec: BuiltinTask | FileTask) -> Task:
    """The task of a recipe; RecipeError where a file's label is also one of its texts."""
    return file_task(spec) if isinstance(spec, FileTask) else TASKS[spec.kind]
