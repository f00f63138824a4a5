"""The task's section of a recipe: a task of the table, or a user's own files."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from accept_llm.recipe.types import Count, PathText, Size, Spec, possible_path
from accept_llm.tasks.base import AnswerKind, Task, nfc
from accept_llm.tasks.table import TASKS

if TYPE_CHECKING:
    TaskName = str
else:  # one of the table, as pydantic and the schema need it
    TaskName = Literal[tuple(TASKS)]


def _bool_or_text(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, str) and value.strip()):
        return value
    raise ValueError("true, false, or a text")


class _Task(Spec):
    cue: Annotated[bool | str, BeforeValidator(_bool_or_text)] = True
    """End the text with the task's question ("sentiment:"), so that the last token asks it; a
    text asks in your own words."""
    shots: Count | None = None
    """k-shot: train on k rows in total, balanced over the classes, drawn with train.seed."""
    split_seed: Size = 42
    """Seed of the permutation that cuts validation and test sets (DePT's is 42)."""
    train_limit: Count | None = None
    """Keep only the first rows of a split, after splitting (for trials)."""
    validation_limit: Count | None = None
    test_limit: Count | None = None


def _file_or_share(value: Any) -> Any:
    if isinstance(value, str):
        return possible_path(value)
    if isinstance(value, float) and 0 < value < 1:
        return value
    raise ValueError("a file, or a share of the training rows between 0 and 1")


FileOrShare = Annotated[str | float, BeforeValidator(_file_or_share)]


class BuiltinTask(_Task):
    """A task of the table (accept_llm/tasks/table.py)."""

    kind: TaskName
    dir: PathText | None = None
    """Folder with <task>/{train,validation,test}.parquet; else ACCEPT_DATA_DIR, else the Hub."""
    # A factory, so that the schema names no default: it is the task's.
    max_length: Count = Field(default_factory=lambda: Task.max_length)
    """l: tokens of the input, prompt not counted; also the length of SCAP. Without it, the task's
    own (`accept-llm tasks` has them)."""

    @model_validator(mode="before")
    @classmethod
    def _default_length(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("max_length") is not None:
            return data
        task = TASKS.get(str(data.get("kind")))
        return {**data, "max_length": task.max_length if task else Task.max_length}

    @property
    def answers(self) -> AnswerKind:
        """What an answer of the task is."""
        return TASKS[self.kind].kind


Text = Annotated[str, AfterValidator(nfc)]
"""A label or a column, whose accents may be written as they are in no file."""


class FileTask(_Task):
    """Your own CSV, TSV, JSON, JSONL or Parquet files."""

    kind: Literal["file"]
    max_length: Count = Task.max_length
    """l: tokens of the input, prompt not counted; also the length of SCAP."""
    train: PathText
    validation: FileOrShare | None = None
    """Another file, or a share of the training rows (0.1) that is set aside; without it, a fifth of
    them is."""
    test: FileOrShare | None = None
    """Another file, or a share of the training rows; without it, the validation rows are halved
    into validation and test."""
    text: Annotated[list[Text], Field(min_length=1, max_length=2)]
    """One or two text columns."""
    label: Text
    """The label column: names out of `labels`, or numbers that index it."""
    labels: Annotated[list[Text], Field(min_length=2)]
    title: str = "text"
    """First word of the text form: `<title> <column>: <value> ...`."""
    question: str = "label:"
    """The text that task.cue appends."""
    metric: Literal["accuracy", "f1", "matthews"] = "accuracy"

    @property
    def answers(self) -> AnswerKind:
        """What an answer of the task is."""
        return "classes"

    @model_validator(mode="after")
    def _distinct(self) -> "FileTask":
        problems = []
        if self.label in self.text:
            problems.append(f"label: got {self.label!r}; allowed: a column not in task.text")
        for name, values in (("text", self.text), ("labels", self.labels)):
            if len(set(values)) < len(values):
                problems.append(f"{name}: got {values}; allowed: each of them once")
        if problems:
            raise ValueError("\n".join(problems))
        return self


TaskSpec = Annotated[BuiltinTask | FileTask, Field(discriminator="kind")]
