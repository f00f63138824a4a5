"""The tasks: what they read, how a row becomes text, how they are scored.

TASKS is the one table; a recipe's `kind: file` makes a task of its own.
"""

from accept_llm.recipe import BuiltinTask, FileTask
from accept_llm.tasks.base import Example, Parts, Task
from accept_llm.tasks.files import QUICKSTART, file_task
from accept_llm.tasks.glue import COLA, MRPC, RTE, SST2, STSB
from accept_llm.tasks.metrics import METRICS
from accept_llm.tasks.superglue import BOOLQ, CB

__all__ = ["METRICS", "TASKS", "Example", "Parts", "Task", "task_from"]

TASKS: dict[str, Task] = {
    "sst2": SST2,
    "rte": RTE,
    "cb": CB,
    "cola": COLA,
    "mrpc": MRPC,
    "stsb": STSB,
    "boolq": BOOLQ,
    "quickstart": QUICKSTART,
}


def task_from(spec: BuiltinTask | FileTask) -> Task:
    """The task of a recipe; RecipeError where a file's label is also one of its texts."""
    return file_task(spec) if isinstance(spec, FileTask) else TASKS[spec.kind]
