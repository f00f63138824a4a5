"""The head's section of a recipe: how the model answers."""

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field

from accept_llm.recipe.types import Count, Spec, kind_of
from accept_llm.tasks.base import AnswerKind


class LinearHead(Spec):
    """A trainable linear layer on the state of the last real token; with an encoder-decoder, on
    the decoder's first state."""

    answers: ClassVar[tuple[AnswerKind, ...]] = ("classes", "score")
    kind: Literal["linear"]
    bias: bool = False


class LabelWordsHead(Spec):
    """The LM head's logits of one word per label, where its first token is due; no numbers."""

    answers: ClassVar[tuple[AnswerKind, ...]] = ("classes",)
    kind: Literal["label_words"]
    words: dict[str, str] = Field(default_factory=dict)
    """label -> word, where the task's own word should not be used."""


class ChoiceHead(Spec):
    """The log-likelihood of each label as a text of any length; nothing to train."""

    answers: ClassVar[tuple[AnswerKind, ...]] = ("classes",)
    kind: Literal["choice"]
    verbalizer: Literal["words", "labels"] = "words"
    """What the model is to say: the task's plain words (no, yes), or the labels' own names."""
    words: dict[str, str] = Field(default_factory=dict)
    """label -> text, where neither should be used."""


class GenerateHead(Spec):
    """The model writes its answer, token by token; nothing to train."""

    answers: ClassVar[tuple[AnswerKind, ...]] = ("score", "text")
    kind: Literal["generate"]
    max_new_tokens: Count = 32
    """Tokens of an answer, its end included; training answers are cut to that."""
    num_beams: Count = 1
    """1: greedy."""


HeadSpec = Annotated[
    LinearHead | LabelWordsHead | ChoiceHead | GenerateHead, Field(discriminator="kind")
]

HEAD_SPECS: tuple[type[Any], ...] = get_args(get_args(HeadSpec)[0])
"""The classes behind `head.kind`."""


def heads_for(answers: AnswerKind) -> list[str]:
    """The kinds of head that can give such answers."""
    return [kind_of(spec) for spec in HEAD_SPECS if answers in spec.answers]
