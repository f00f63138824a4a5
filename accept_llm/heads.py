"""Heads turn what a backbone gives for a batch into losses and answers. A head owns its loss
and its decision: a trainable linear layer, one word per label, the likelihood of the labels'
texts, or a text that the model writes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from accept_llm.backbones.base import Backbone, Generation
from accept_llm.data.batches import Batch, pad_answers
from accept_llm.data.encoding import Encoded
from accept_llm.errors import RecipeError
from accept_llm.methods.composed import Composed
from accept_llm.recipe.head import ChoiceHead, HeadSpec, LabelWordsHead
from accept_llm.tasks.base import Label, Task, score_text


@dataclass(frozen=True)
class Outcome:
    """Of a batch: `losses` (B,); `scores` (B, classes), (B,), or None where the answers are
    `written`, as tokens."""

    losses: Tensor
    scores: Tensor | None = None
    generated: list[list[int]] | None = None


class _Scores(nn.Module):
    """A head whose answer is in one position: scores, and a loss for each example."""

    reads: str

    def scores(self, read: Tensor) -> Tensor:
        """(B, d) or (B, vocabulary) -> (B, classes), or (B,) for a task that is a score."""
        raise NotImplementedError

    def losses(self, backbone: Backbone, batch: Batch, prompt: Composed) -> Tensor:
        """(B,), differentiable in the prompt."""
        return self.outcome(backbone, batch, prompt).losses

    def outcome(self, backbone: Backbone, batch: Batch, prompt: Composed) -> Outcome:
        scores = self.scores(backbone(batch, prompt, reads=self.reads))
        return Outcome(example_losses(scores, batch.labels), scores)

    def targets(self, row: Encoded) -> int:
        """How many terms a row's loss sums up; the loss of a batch is the mean over them all."""
        return 1


class LinearHead(_Scores):
    """Logits, or one score, from the state of the last real token; fp32. With an
    encoder-decoder, from the decoder's first state."""

    reads = "states"

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


class LabelWords(_Scores):
    """The next-token logits of one word per label; no parameters of its own."""

    reads = "logits"
    token_ids: Tensor

    def __init__(self, token_ids: Sequence[int]):
        super().__init__()
        self.register_buffer("token_ids", torch.tensor(list(token_ids)), persistent=False)

    def scores(self, read: Tensor) -> Tensor:
        return read[:, self.token_ids].float()


class _AnswerHead(nn.Module):
    """A head that trains the model to say the tokens of `batch.answers`; no parameters."""

    def losses(self, backbone: Backbone, batch: Batch, prompt: Composed) -> Tensor:
        """(B,): minus the log-likelihood of each answer, differentiable in the prompt."""
        owner = torch.arange(len(batch), device=batch.answers.device)
        return -backbone.log_likelihood(batch, prompt, batch.answers, owner)

    def targets(self, row: Encoded) -> int:
        """The tokens of the answer: the loss of a batch is the mean over all of them."""
        return len(row.answer)


class Choice(_AnswerHead):
    """Trains the model to say the label's text, and chooses the most likely one."""

    def __init__(self, choices: Sequence[Sequence[int]]):
        super().__init__()
        self.choices = tuple(tuple(choice) for choice in choices)

    def outcome(self, backbone: Backbone, batch: Batch, prompt: Composed) -> Outcome:
        """The choices of all examples in one pass; the input is read once for each example by an
        encoder, once for each choice by a causal model."""
        classes, device = len(self.choices), batch.tokens.device
        owner = torch.arange(len(batch), device=device).repeat_interleave(classes)
        answers = pad_answers(self.choices).to(device).repeat(len(batch), 1)
        scores = backbone.log_likelihood(batch, prompt, answers, owner).view(len(batch), classes)
        return Outcome(-scores.gather(1, batch.labels[:, None])[:, 0], scores)


class Generate(_AnswerHead):
    """Trains the model to say the gold answer, and lets it write one."""

    def __init__(self, *, max_new_tokens: int, num_beams: int, end: int):
        super().__init__()
        self.generation = Generation(max_new_tokens, num_beams, end)

    def outcome(self, backbone: Backbone, batch: Batch, prompt: Composed) -> Outcome:
        generated = backbone.generate(batch, prompt, self.generation)
        return Outcome(self.losses(backbone, batch, prompt), generated=generated)


Head = LinearHead | LabelWords | Choice | Generate


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


def answer_ids(tokenizer: Any, text: str, *, encoder_decoder: bool) -> tuple[int, ...]:
    """The tokens that say `text`, and the end of a text: for a decoder that starts with them, or
    for a causal LM that goes on with them after a space."""
    if encoder_decoder:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        bare = tokenizer("x", add_special_tokens=False)["input_ids"]
        ids = tokenizer(f"x {text.strip()}", add_special_tokens=False)["input_ids"][len(bare) :]
    return (*ids, tokenizer.eos_token_id)


def label_texts(
    spec: ChoiceHead, task: Task, tokenizer: Any, *, encoder_decoder: bool
) -> list[tuple[int, ...]]:
    """The tokens of each label's text; RecipeError for an empty one and for two that are alike."""
    ours = task.words if spec.verbalizer == "words" else task.labels
    texts = [spec.words.get(label, text) for label, text in zip(task.labels, ours, strict=True)]
    ids = [answer_ids(tokenizer, text, encoder_decoder=encoder_decoder) for text in texts]
    if len(set(ids)) < len(ids) or not all(text.strip() for text in texts):
        raise RecipeError(
            [f"head.words: got {texts}; allowed: a text for each label, all different"]
        )
    return ids


def build_head(
    spec: HeadSpec,
    task: Task,
    *,
    hidden: int,
    tokenizer: Any,
    seed: int,
    encoder_decoder: bool = False,
) -> Head:
    """The head that a recipe asks for; RecipeError where the tokenizer cannot serve it."""
    if spec.kind == "linear":
        return LinearHead(hidden, len(task.labels), bias=spec.bias, seed=seed)
    if spec.kind == "label_words":
        return LabelWords(label_word_ids(spec, task, tokenizer))
    if tokenizer.eos_token_id is None:
        got = f"head.kind: got {spec.kind!r}, but the tokenizer has no token that ends a text"
        raise RecipeError([f"{got}; allowed: linear, label_words"])
    if spec.kind == "choice":
        return Choice(label_texts(spec, task, tokenizer, encoder_decoder=encoder_decoder))
    return Generate(
        max_new_tokens=spec.max_new_tokens, num_beams=spec.num_beams, end=tokenizer.eos_token_id
    )


def answers_of(
    head: Head, tokenizer: Any, *, encoder_decoder: bool
) -> Callable[[Label], tuple[int, ...]] | None:
    """Label -> the tokens that `head` trains the model to say; None where it needs no text. An
    answer that is longer than the model may write is cut, and has no end then."""
    if isinstance(head, Choice):
        return lambda label: head.choices[label]  # type: ignore[index]
    if not isinstance(head, Generate):
        return None

    def answer(label: Label) -> tuple[int, ...]:
        text = label[0] if isinstance(label, tuple) else score_text(label)
        ids = answer_ids(tokenizer, text, encoder_decoder=encoder_decoder)
        return ids[: head.generation.limit]

    return answer


def example_losses(scores: Tensor, labels: Tensor) -> Tensor:
    """(B, classes) or (B,) -> (B,): cross-entropy, or the squared error of a score."""
    if scores.dim() == 1:
        return (scores - labels) ** 2
    return F.cross_entropy(scores, labels, reduction="none")
