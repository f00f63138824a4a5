"""What the tasks are, for a person to see: the table of all, and a task's first examples in the
form that a model reads. Knows no model; a tokenizer only counts, and is loaded only for that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from accept_llm.data.sources import first_examples
from accept_llm.errors import RecipeError, refusal
from accept_llm.models.tokenizer import load_tokenizer
from accept_llm.models.tokenizer_files import tokenizer_problems
from accept_llm.storage import home_path, model_dir
from accept_llm.tasks.base import Example, Label, Task, score_text
from accept_llm.tasks.table import TASKS

EXAMPLES = 3
HUB_TOKENIZER = "google-t5/t5-base"  # where nothing is local and nothing was asked for
ALLOWED = "a folder with a tokenizer, one below ACCEPT_MODEL_DIR, or a Hub id"
COLUMNS = ("task", "labels", "metrics", "length", "splits", "on the Hub")
FOLDED = ("labels", "on the Hub")
NOTES = """\
splits: small halves the validation rows into validation and test; large takes 1,000 training
rows as validation and tests on the validation rows; same validates and tests on the same rows.
length: the default of task.max_length, in tokens. The first metric selects the best step."""


def print_table() -> None:
    """Prints the tasks; a narrow terminal folds the cells and cuts none."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for name in COLUMNS:
        table.add_column(name, overflow="fold", no_wrap=name not in FOLDED)
    for row in task_table():
        table.add_row(*row)
    Console().print(table)
    print(NOTES)


def task_table() -> list[tuple[str, ...]]:
    """A row of COLUMNS for each task of the table."""
    return [
        (
            task.name,
            ", ".join(task.labels) or {"score": "a score", "text": "texts"}[task.kind],
            "\n".join((task.metric, *task.extra_metrics)),
            str(task.max_length),
            task.splits,
            " ".join(filter(None, task.hub)) if task.hub else "(in the package)",
        )
        for task in TASKS.values()
    ]


# --- examples ---------------------------------------------------------------------------


def show_task(name: str, model: str | None) -> str:
    """The first examples of a task: the whole text with the cue, its size and the gold label.

    `model` names a tokenizer: a folder, a folder below ACCEPT_MODEL_DIR or a model of the Hub.
    Without it, the first folder below ACCEPT_MODEL_DIR, else the Hub's t5-base, and where neither
    can be had, words are counted. RecipeError: no such task, no rows, no such tokenizer.
    """
    if name not in TASKS:
        raise RecipeError([f"tasks: {refusal(name, list(TASKS), allowed=', '.join(TASKS))}"])
    task = TASKS[name]
    split, examples = first_examples(task, EXAMPLES)
    counter = _counter(model)
    blocks = [f"{name}, the first rows of {split}. {counter.source}"]
    for example in examples:
        text = example.text(task.question)
        size = f"{counter.count(text)} {counter.unit} (max length {task.max_length})"
        blocks.append(f"{example.id}, {size}\n{text}\n{gold(task, example)}")
    return "\n\n".join(blocks)


def gold(task: Task, example: Example) -> str:
    """The gold label in a line: class and word, score as text and as it is, or answers."""
    label: Label = example.label
    if isinstance(label, tuple):
        return "answers: " + " | ".join(label)
    if task.is_score:
        return f"score: {score_text(label)} ({label:g})"
    return f"label: {task.labels[int(label)]} (word {task.words[int(label)]!r})"


# --- counting ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Counter:
    """How the size of a text is told."""

    count: Callable[[str], int]
    unit: str
    source: str


def _counter(model: str | None) -> Counter:
    if model is not None and not model.strip():
        raise RecipeError([f"--model: got {model!r}; allowed: {ALLOWED}"])
    try:
        return _tokens(model or _first_folder() or HUB_TOKENIZER)
    except RecipeError as error:  # of a folder that is there
        if model is not None:
            lines = [f"--model: {line.removeprefix('model: ')}" for line in error.problems]
            raise RecipeError(lines) from None
    except Exception as error:  # of the Hub's clients, of transformers
        why = f"{type(error).__name__}: {error}".strip().split("\n")[0]
        if model is not None:
            raise RecipeError([f"--model: got {model!r} ({why}); allowed: {ALLOWED}"]) from None
    return Counter(
        lambda text: len(text.split()), "words", "No tokenizer is at hand: words counted."
    )


def _first_folder() -> str | None:
    parent = model_dir()
    found = sorted(parent.glob("*/tokenizer_config.json")) if parent else []
    return str(found[0].parent) if found else None


def _tokens(name: str) -> Counter:
    tokenizer = _tokenizer(name)
    source = f"Tokens are counted with {name}, its special tokens included."
    return Counter(lambda text: len(tokenizer(text)["input_ids"]), "tokens", source)


def _tokenizer(name: str) -> Any:
    parent = model_dir()
    for folder in (home_path(name), *([parent / name] if parent else [])):
        if folder.is_dir():
            problems = tokenizer_problems(folder, None)
            if problems:
                raise RecipeError(problems)
            return load_tokenizer(folder)
    from huggingface_hub import HfApi, try_to_load_from_cache
    from transformers import AutoTokenizer

    if isinstance(try_to_load_from_cache(name, "tokenizer_config.json"), str):
        return AutoTokenizer.from_pretrained(name, local_files_only=True)
    HfApi().model_info(name, timeout=5)  # one quick request: transformers retries for a minute
    return AutoTokenizer.from_pretrained(name)
