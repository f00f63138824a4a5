"""Heads turn what a backbone gives for a batch into losses and answers. A head owns its loss
and its decision: a trainable linear layer, one word per label, the likelihood of the labels'
texts, or a text that the model generates.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar

import torch
from pydantic import create_model
from torch import Tensor, nn
from torch.nn import functional as F

from accept_llm.backbones.base import Backbone, Generation
from accept_llm.data.answers import answer_ids, label_texts, label_word_ids
from accept_llm.data.batches import Batch, pad_answers
from accept_llm.data.encoding import Encoded
from accept_llm.errors import RecipeError
from accept_llm.methods.base import Composed
from accept_llm.recipe.budget import STRICT
from accept_llm.recipe.head import ChoiceHead, GenerateHead, HeadSpec, LabelWordsHead
from accept_llm.recipe.head import LinearHead as LinearSpec
from accept_llm.recipe.messages import parse_section
from accept_llm.recipe.types import Count, Size
from accept_llm.tasks.base import Label, Task, score_text

Answers = Callable[[Label], tuple[int, ...]]
"""Label -> the tokens that the model is trained to say for it."""


@dataclass(frozen=True)
class Setting:
    """What a head is built for."""

    task: Task
    hidden: int
    tokenizer: Any
    seed: int
    encoder_decoder: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a head makes of a batch: `losses` (B,); `scores` (B, classes), (B,), or None
    where the answers are `generated`, as tokens."""

    losses: Tensor
    scores: Tensor | None = None
    generated: list[list[int]] | None = None


class Head(nn.Module):
    """A loss and an answer for each example of a batch."""

    kind: ClassVar[str]
    generates: ClassVar[bool] = False
    """Whether the model generates the answer as a text of its own."""

    @classmethod
    def build(cls, spec: Any, setting: Setting) -> "Head":
        """The head that a recipe asks for; RecipeError where the tokenizer cannot serve it."""
        raise NotImplementedError

    def arguments(self) -> dict[str, Any]:
        """The arguments that the class was called with, but for `seed`: JSON values, whose types
        are those of its parameters."""
        raise NotImplementedError

    def card(self) -> dict[str, Any]:
        """What an adapter's card must hold so that `from_card` builds the head again."""
        return {"kind": self.kind, **self.arguments()}

    @classmethod
    def from_card(cls, card: Mapping[str, Any], *, where: str = "head.") -> "Head":
        """The head of a card, its values still to be loaded; RecipeError names what is wrong in
        it, each line beginning with `where`."""
        given = {name: value for name, value in card.items() if name != "kind"}
        known = signature(cls).parameters.items()
        fields: Any = {name: (p.annotation, ...) for name, p in known if name != "seed"}
        section = create_model(cls.__name__, __config__=STRICT, **fields)
        return cls(**parse_section(section, given, where=where).model_dump())

    def card_problems(self, *, hidden: int, vocabulary: int, classes: int) -> Iterator[str]:
        """A line for each argument that a model of such sizes, or a task of so many classes, cannot
        have; it begins with the argument's name."""
        return iter(())

    def losses(self, backbone: Backbone, batch: Batch, *, prompt: Composed) -> Tensor:
        """(B,), differentiable in the prompt."""
        return self.outcome(backbone, batch, prompt=prompt).losses

    def outcome(self, backbone: Backbone, batch: Batch, *, prompt: Composed) -> Outcome:
        """Losses and answers of a batch."""
        raise NotImplementedError

    def targets(self, row: Encoded) -> int:
        """How many terms a row's loss sums up; the loss of a batch is the mean over them all."""
        return 1

    @property
    def longest(self) -> int:
        """Tokens of the longest text that the head has for a label; 0 where it has none."""
        return 0

    def answers(self, tokenizer: Any, *, encoder_decoder: bool) -> Answers | None:
        """Gives the tokens that the model is trained to say for a label; None where it needs no
        text."""
        return None

    def is_truncated(self, row: Encoded) -> bool:
        """Whether the row's answer is longer than the model may generate."""
        return False


class _ScoreHead(Head):
    """A head whose answer is in one position: scores, and a loss for each example."""

    reads: str

    def scores(self, read: Tensor) -> Tensor:
        """(B, d) or (B, vocabulary) -> (B, classes), or (B,) for a task that is a score."""
        raise NotImplementedError

    def outcome(self, backbone: Backbone, batch: Batch, *, prompt: Composed) -> Outcome:
        scores = self.scores(backbone(batch, prompt, reads=self.reads))
        return Outcome(example_losses(scores, batch.labels), scores)


class LinearHead(_ScoreHead):
    """Logits, or one score, from the state of the last real token; fp32. With an
    encoder-decoder, from the decoder's first state. `classes` is 0 for a score."""

    kind = "linear"
    reads = "states"

    def __init__(self, hidden: Count, classes: Size, *, bias: bool, seed: int = 0):
        super().__init__()
        self.linear = nn.Linear(hidden, max(classes, 1), bias=bias)
        self.is_score = classes == 0
        generator = torch.Generator().manual_seed(seed)
        # Scores near 0: a larger head would first have to be unlearned (docs/learning.md).
        nn.init.normal_(self.linear.weight, std=0.1 * hidden**-0.5, generator=generator)
        if bias:
            nn.init.zeros_(self.linear.bias)

    @classmethod
    def build(cls, spec: LinearSpec, setting: Setting) -> "LinearHead":
        return cls(setting.hidden, len(setting.task.labels), bias=spec.bias, seed=setting.seed)

    def arguments(self) -> dict[str, Any]:
        classes, hidden = self.linear.weight.shape
        bias = self.linear.bias is not None
        return {"hidden": hidden, "classes": 0 if self.is_score else classes, "bias": bias}

    def card_problems(self, *, hidden: int, vocabulary: int, classes: int) -> Iterator[str]:
        ours = self.arguments()
        for name, wanted in (("hidden", hidden), ("classes", classes)):
            if ours[name] != wanted:
                yield f"{name}: got {ours[name]}; allowed: {wanted}, that of model and task"

    def scores(self, read: Tensor) -> Tensor:
        out = self.linear(read.float())
        return out.squeeze(-1) if self.is_score else out


class LabelWords(_ScoreHead):
    """The next-token logits of one word per label; no parameters of its own."""

    kind = "label_words"
    reads = "logits"
    token_ids: Tensor

    def __init__(self, token_ids: list[Size]):
        super().__init__()
        self.register_buffer("token_ids", torch.tensor(token_ids), persistent=False)

    @classmethod
    def build(cls, spec: LabelWordsHead, setting: Setting) -> "LabelWords":
        return cls(label_word_ids(spec, setting.task, tokenizer=setting.tokenizer))

    def arguments(self) -> dict[str, Any]:
        return {"token_ids": self.token_ids.tolist()}

    def card_problems(self, *, hidden: int, vocabulary: int, classes: int) -> Iterator[str]:
        ids = self.token_ids.tolist()
        if len(ids) != classes:
            yield f"token_ids: got {len(ids)} of them; allowed: one for each of {classes} labels"
        yield from _foreign_tokens("token_ids", ids, vocabulary=vocabulary)

    def scores(self, read: Tensor) -> Tensor:
        return read[:, self.token_ids].float()


class _AnswerHead(Head):
    """A head that trains the model to say the tokens of `batch.answers`; no parameters."""

    def losses(self, backbone: Backbone, batch: Batch, *, prompt: Composed) -> Tensor:
        """(B,): minus the log-likelihood of each answer, differentiable in the prompt."""
        owner = torch.arange(len(batch), device=batch.answers.device)
        return -backbone.log_likelihood(batch, prompt, answers=batch.answers, owner=owner)

    def targets(self, row: Encoded) -> int:
        """The tokens of the answer: the loss of a batch is the mean over all of them."""
        return len(row.answer)


class Choice(_AnswerHead):
    """Trains the model to say the label's text, and chooses the most likely one."""

    kind = "choice"

    def __init__(self, choices: list[list[Size]]):
        super().__init__()
        self.choices = tuple(tuple(choice) for choice in choices)

    @classmethod
    def build(cls, spec: ChoiceHead, setting: Setting) -> "Choice":
        _check_end(spec.kind, setting.tokenizer)
        decoder = setting.encoder_decoder
        return cls(
            label_texts(spec, setting.task, tokenizer=setting.tokenizer, encoder_decoder=decoder)
        )

    @property
    def longest(self) -> int:
        return max(map(len, self.choices))

    def arguments(self) -> dict[str, Any]:
        return {"choices": [list(choice) for choice in self.choices]}

    def card_problems(self, *, hidden: int, vocabulary: int, classes: int) -> Iterator[str]:
        if len(self.choices) != classes or not all(self.choices):
            got = (
                f"choices: got {len(self.choices)} of {[len(c) for c in self.choices][:20]} tokens"
            )
            yield f"{got}; allowed: at least one token for each of {classes} labels"
        ids = [token for choice in self.choices for token in choice]
        yield from _foreign_tokens("choices", ids, vocabulary=vocabulary)

    def answers(self, tokenizer: Any, *, encoder_decoder: bool) -> Answers:
        return lambda label: self.choices[label]  # type: ignore[index]

    def outcome(self, backbone: Backbone, batch: Batch, *, prompt: Composed) -> Outcome:
        """The choices of all examples in one pass; the input is read once for each example by an
        encoder, once for each choice by a causal model."""
        classes, device = len(self.choices), batch.tokens.device
        owner = torch.arange(len(batch), device=device).repeat_interleave(classes)
        answers = pad_answers(self.choices).to(device).repeat(len(batch), 1)
        scores = backbone.log_likelihood(batch, prompt, answers=answers, owner=owner).view(
            len(batch), classes
        )
        return Outcome(-scores.gather(1, batch.labels[:, None])[:, 0], scores)


class Generate(_AnswerHead):
    """Trains the model to say the gold answer, and lets it generate one."""

    kind = "generate"
    generates = True

    def __init__(self, *, max_new_tokens: Count, num_beams: Count, end: Size):
        super().__init__()
        self.generation = Generation(max_new_tokens, num_beams, end)

    @classmethod
    def build(cls, spec: GenerateHead, setting: Setting) -> "Generate":
        _check_end(spec.kind, setting.tokenizer)
        end = setting.tokenizer.eos_token_id
        return cls(max_new_tokens=spec.max_new_tokens, num_beams=spec.num_beams, end=end)

    def arguments(self) -> dict[str, Any]:
        how = self.generation
        return {"max_new_tokens": how.limit, "num_beams": how.beams, "end": how.end}

    def card_problems(self, *, hidden: int, vocabulary: int, classes: int) -> Iterator[str]:
        yield from _foreign_tokens("end", [self.generation.end], vocabulary=vocabulary)

    def answers(self, tokenizer: Any, *, encoder_decoder: bool) -> Answers:
        """An answer that is longer than the model may generate is truncated; it has no end then."""

        def answer(label: Label) -> tuple[int, ...]:
            text = label[0] if isinstance(label, tuple) else score_text(label)
            ids = answer_ids(tokenizer, text, encoder_decoder=encoder_decoder)
            return tuple(ids[: self.generation.limit])

        return answer

    def is_truncated(self, row: Encoded) -> bool:
        return row.answer[-1] != self.generation.end

    def outcome(self, backbone: Backbone, batch: Batch, *, prompt: Composed) -> Outcome:
        generated = backbone.generate(batch, prompt, how=self.generation)
        return Outcome(self.losses(backbone, batch, prompt=prompt), generated=generated)


HEADS: dict[str, type[Head]] = {
    "linear": LinearHead,
    "label_words": LabelWords,
    "choice": Choice,
    "generate": Generate,
}


def build_head(spec: HeadSpec, setting: Setting) -> Head:
    """The head that a recipe asks for; RecipeError where the tokenizer cannot serve it."""
    return HEADS[spec.kind].build(spec, setting)


def head_from_card(card: Mapping[str, Any], *, where: str = "head.") -> Head:
    """The head of an adapter's card; RecipeError where it is damaged or not known."""
    kind = card.get("kind")
    if not isinstance(kind, str) or kind not in HEADS:
        raise RecipeError([f"{where}kind: got {kind!r}; allowed: {', '.join(HEADS)}"])
    return HEADS[kind].from_card(card, where=where)


def _foreign_tokens(name: str, ids: Sequence[int], *, vocabulary: int) -> Iterator[str]:
    foreign = [token for token in ids if token >= vocabulary]
    if foreign:
        yield f"{name}: got token {foreign[0]}; allowed: 0 to {vocabulary - 1}, those of the model"


def _check_end(kind: str, tokenizer: Any) -> None:
    if tokenizer.eos_token_id is None:
        got = f"head.kind: got {kind!r}, but the tokenizer has no token that ends a text"
        raise RecipeError([f"{got}; allowed: linear, label_words"])


def example_losses(scores: Tensor, labels: Tensor) -> Tensor:
    """(B, classes) or (B,) -> (B,): cross-entropy, or the squared error of a score."""
    if scores.dim() == 1:
        return (scores - labels) ** 2
    return F.cross_entropy(scores, labels, reduction="none")
