"""TASKS, the one table of the tasks that are built in; a recipe's `kind: file` makes a task of its
own (data/sources.py).
"""

from accept_llm.tasks import glue, qa, quickstart, scitail, superglue
from accept_llm.tasks.base import Task

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        *(glue.SST2, glue.COLA, glue.RTE, glue.MRPC, glue.QQP, glue.MNLI, glue.QNLI, glue.STSB),
        *(superglue.CB, superglue.BOOLQ, superglue.MULTIRC, superglue.WIC, superglue.WSC),
        superglue.RECORD,
        *(qa.NQ, qa.HOTPOTQA, qa.SEARCHQA, qa.NEWSQA, qa.SQUAD),
        scitail.SCITAIL,
        quickstart.QUICKSTART,
    )
}
