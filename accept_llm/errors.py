"""What a user is told: the error that everything raises, and the words of its lines.

Each line has the field's path, what was given, what is allowed, and "did you mean".
"""

import difflib
import reprlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

Notify = Callable[[str], None]
"""Takes a line that tells a user what goes on: `print`, or what a command shows it with."""


def silent(text: str) -> None:
    """A Notify that shows nothing."""


class RecipeError(ValueError):
    """What a user wrote cannot be used. `problems` has one line for each mistake."""

    def __init__(self, problems: Sequence[str], *, source: str | None = None):
        self.problems = list(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        head = f"{source}: {count}\n" if source else ""
        super().__init__(head + "\n".join(f"  {line}" if source else line for line in problems))


class Problems:
    """Collects the RecipeErrors of several checks, so that all of them show at once."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextmanager
    def catch(self, *, where: str = "") -> Iterator[None]:
        """Keeps the problems of a RecipeError, each behind `where`, and goes on after the block."""
        try:
            yield
        except RecipeError as error:
            self.lines += [f"{where}{line}" for line in error.problems]

    def check(self, *, source: str | None = None) -> None:
        """Raises one RecipeError if anything was collected."""
        if self.lines:
            raise RecipeError(list(dict.fromkeys(self.lines)), source=source)


def cannot_write(error: OSError, path: Any) -> str:
    """What the system could not write, and why; `path` where the error names none."""
    return f"cannot write {error.filename or path} ({error.strerror or error})"


# --- words ------------------------------------------------------------------------------

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def short(value: Any) -> str:
    """A value as a person would recognise it, on one line of bounded length."""
    return "null" if value is None else _SHORT.repr(value)


def did_you_mean(word: str, choices: Sequence[str]) -> str:
    """ ", did you mean 'x'?" or nothing."""
    close = difflib.get_close_matches(str(word), list(choices), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def refusal(value: Any, choices: Sequence[str], *, allowed: str) -> str:
    """`got X, did you mean 'y'? allowed: ...`, or `got X; allowed: ...`."""
    hint = did_you_mean(value, choices) if isinstance(value, str) else ""
    return f"got {reprlib.repr(value)}{hint or ';'} allowed: {allowed}"
