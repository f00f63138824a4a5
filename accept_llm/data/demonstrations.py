"""Training texts with the words of their labels: what a prompt may start from."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from accept_llm.data.encoding import Encoder
from accept_llm.tasks.base import Example, Label, Task, score_text

DRAWN = 100  # examples to choose from
ABOUT = 3  # examples that should fill a prompt


def answer_text(task: Task, example: Example) -> str:
    """The word of a class, a score, or the first gold answer."""
    label = example.label
    if isinstance(label, tuple):
        return label[0]
    return score_text(label) if task.is_score else task.words[int(label)]


def demonstrations(
    encoder: Encoder, examples: Sequence[Example], *, count: int, generator: torch.Generator
) -> Tensor:
    """Token ids (count,): the end of a row of solved examples, each `<text> <answer>` and a line
    break, without special tokens. Of some drawn examples it takes those whose length is the nearest
    to a third of `count`, and labels by turns."""
    drawn = torch.randperm(len(examples), generator=generator)[:DRAWN].tolist()
    found = []
    for example in (examples[i] for i in drawn):
        text = encoder.text([value for _, value in example.parts], example)
        solved = f"{text} {answer_text(encoder.task, example)}\n"
        tokens = encoder.tokenizer(solved, add_special_tokens=False)["input_ids"]
        found.append((example.label, tokens))
    found.sort(key=lambda one: abs(len(one[1]) - count / ABOUT))
    ids: list[int] = []
    uses: Counter[Label] = Counter()
    rest = list(found)
    while len(ids) < count:
        rest = rest or list(found)
        label, tokens = min(rest, key=lambda one: uses[one[0]])
        rest.remove((label, tokens))
        uses[label] += 1
        ids = tokens + ids
    return torch.tensor(ids[-count:])
