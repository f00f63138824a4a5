"""Heads turn the state of the last real token into predictions: a trainable linear layer, or
the LM head's logits of one word per label. A head owns its loss and its decision.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from accept_llm.recipe import HeadSpec, LabelWordsHead
from accept_llm.recipe_errors import RecipeError
from accept_llm.tasks import Task


class LinearHead(nn.Module):
    """Logits, or one score, from the state of the last real token; fp32."""

    reads: Literal["states", "logits"] = "states"

    def __init__(self, hidden: int, classes: int, *, bias: bool, seed: int = 0):
        super().__init__()
        self.linear = nn.Linear(hidden, max(classes, 1), bias=bias)
        self.is_score = classes == 0
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.linear.weight, std=hidden**-0.5, generator=generator)
        if bias:
            nn.init.zeros_(self.linear.bias)

    def scores(self, read: Tensor) -> Tensor:
        out = self.linear(read.float())
        return out.squeeze(-1) if self.is_score else out


class LabelWords(nn.Module):
    """The next-token logits of one word per label; no parameters of its own."""

    reads: Literal["states", "logits"] = "logits"
    token_ids: Tensor

    def __init__(self, token_ids: Sequence[int]):
        super().__init__()
        self.register_buffer("token_ids", torch.tensor(list(token_ids)), persistent=False)

    def scores(self, read: Tensor) -> Tensor:
        return read[:, self.token_ids].float()


Head = LinearHead | LabelWords
"""`reads` says what of the backbone, at the last real token; `scores` turns that, (B, d) or
(B, vocabulary), into (B, classes), or (B,) for a task that is a score."""


def label_word_ids(spec: LabelWordsHead, task: Task, tokenizer: Any) -> list[int]:
    """The first token of each label's word, as it follows a space.

    Raises RecipeError for an empty word and for two words that begin alike.
    """
    words = [spec.words.get(a, b) for a, b in zip(task.labels, task.words, strict=True)]
    bare = tokenizer("x", add_special_tokens=False)["input_ids"]
    ids = []
    for word in words:
        # After "x", so that the word gets its leading space whatever the tokenizer does.
        joined = tokenizer(f"x {word.strip()}", add_special_tokens=False)["input_ids"]
        if not word.strip() or len(joined) == len(bare):
            raise RecipeError([f"head.words: got {word!r}; allowed: a word"])
        ids.append(joined[len(bare)])
    if len(set(ids)) < len(ids):
        raise RecipeError(
            [
                f"head.words: got {words}; allowed: words whose first tokens differ (they are "
                f"{tokenizer.convert_ids_to_tokens(ids)})"
            ]
        )
    return ids


def build_head(
    spec: HeadSpec, task: Task, *, hidden: int, tokenizer: Any, seed: int
) -> LinearHead | LabelWords:
    """The head that a recipe asks for."""
    if spec.kind == "linear":
        return LinearHead(hidden, len(task.labels), bias=spec.bias, seed=seed)
    return LabelWords(label_word_ids(spec, task, tokenizer))


def example_losses(scores: Tensor, labels: Tensor) -> Tensor:
    """(B, classes) or (B,) -> (B,): cross-entropy, or the squared error of a score."""
    if scores.dim() == 1:
        return (scores - labels) ** 2
    return F.cross_entropy(scores, labels, reduction="none")
