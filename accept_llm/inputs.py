"""New texts for `accept-llm predict`: lines of text, or of JSON with the task's columns."""

import json

from accept_llm.recipe_errors import RecipeError
from accept_llm.tasks import Example, Task

SHOWN = 5  # bad lines listed in an error


def parse_inputs(text: str, task: Task) -> list[Example]:
    """One example a line; a line that begins with "{" is JSON and may have an "id".

    Raises RecipeError with the lines that cannot be used. Empty lines are passed over.
    """
    found, problems = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                found.append(_example(line.strip(), number, task))
            except ValueError as error:
                problems.append(f"input line {number}: {error}")
    if len(problems) > SHOWN:
        problems[SHOWN:] = [f"input: {len(problems)} bad lines, the first {SHOWN} are shown"]
    if not found and not problems:
        problems = ["input: got no text; allowed: at least one line"]
    if problems:
        raise RecipeError(problems)
    return found


def _example(line: str, number: int, task: Task) -> Example:
    if line.startswith("{"):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"not JSON ({error})") from None
    elif len(task.columns) == 1:
        record = {task.columns[0]: line}
    else:
        raise ValueError(f"got plain text; allowed: JSON with {', '.join(task.columns)}")
    label = 0.0 if task.is_score else 0  # not known; its loss is not read
    return Example(str(record.get("id", number)), task.parts(record), label)
