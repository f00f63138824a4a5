"""The tasks: what they read, how a row becomes text, how they are scored. Pure data and functions,
below every other part of the package but errors.
"""

from typing import TYPE_CHECKING

from accept_llm import lazily

if TYPE_CHECKING:
    from accept_llm.tasks.base import Example, Task
    from accept_llm.tasks.metrics import METRICS
    from accept_llm.tasks.table import TASKS

__all__ = ["METRICS", "TASKS", "Example", "Task"]
__getattr__ = lazily(
    __name__,
    {
        "METRICS": "tasks.metrics",
        "TASKS": "tasks.table",
        **dict.fromkeys(("Example", "Task"), "tasks.base"),
    },
)
