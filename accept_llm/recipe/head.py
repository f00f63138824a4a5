"""The head's section of a recipe: how the model answers."""

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from accept_llm.errors import refusal
from accept_llm.recipe.types import Count, Spec, kind_of
from accept_llm.tasks.base import AnswerKind, Task


class BaseHead(Spec):
    """What every head says of itself before its module is built."""

    answers: ClassVar[tuple[AnswerKind, ...]]
    """The kinds of tasks whose answers it can give."""
    reads_token: ClassVar[int] = 0
    """1 where the LM head's logits of one position are read."""

    @property
    def answer_limit(self) -> int:
        """The most tokens that the model generates for an answer; 0 where it generates none."""
        return 0

    @property
    def beams(self) -> int:
        """Beams of the generation."""
        return 1

    def parameters(self, *, hidden: int, classes: int) -> int:
        """Trained parameters on a model of width `hidden`; `classes` is 0 for a score."""
        return 0

    @classmethod
    def has_parameters(cls) -> bool:
        """Whether such a head has anything to train, which an adapter then holds."""
        return cls.parameters is not BaseHead.parameters

    def texts(self, task: Task) -> list[str] | None:
        """The texts whose likelihood is computed for every example, one for each label; None where
        none is, or where they are the rows' own answers."""
        return None

    def problems(self, labels: Sequence[str]) -> Iterator[str]:
        """A line for each mistake that shows once the labels are known."""
        return iter(())


def _unknown_words(words: dict[str, str], labels: Sequence[str]) -> Iterator[str]:
    for label in words:
        if label not in labels:
            yield f"head.words: {refusal(label, labels, allowed=', '.join(labels))}"


class LinearHead(BaseHead):
    """A trainable linear layer on the state of the last real token; with an encoder-decoder, on
    the decoder's first state."""

    answers = ("classes", "score")

    kind: Literal["linear"]
    bias: bool = False

    def parameters(self, *, hidden: int, classes: int) -> int:
        return (hidden + self.bias) * max(1, classes)


class LabelWordsHead(BaseHead):
    """The LM head's logits of one word per label, where its first token is due; nothing to
    train."""

    answers = ("classes",)
    reads_token = 1

    kind: Literal["label_words"]
    words: dict[str, str] = Field(default_factory=dict)
    """label -> word, where the task's own word should not be used."""

    def problems(self, labels: Sequence[str]) -> Iterator[str]:
        return _unknown_words(self.words, labels)


class ChoiceHead(BaseHead):
    """The log-likelihood of each label as a text of any length; nothing to train."""

    answers = ("classes",)

    kind: Literal["choice"]
    verbalizer: Literal["words", "labels"] = "words"
    """The text of a label: the task's plain word for it (no, yes), or the label's own name."""
    words: dict[str, str] = Field(default_factory=dict)
    """label -> text, where neither should be used."""

    def texts(self, task: Task) -> list[str]:
        ours = task.words if self.verbalizer == "words" else task.labels
        return [self.words.get(label, text) for label, text in zip(task.labels, ours, strict=True)]

    def problems(self, labels: Sequence[str]) -> Iterator[str]:
        return _unknown_words(self.words, labels)


class GenerateHead(BaseHead):
    """The model generates its answer, token by token; nothing to train."""

    answers = ("score", "text")

    kind: Literal["generate"]
    max_new_tokens: Count = 32
    """Tokens of an answer, its end included; training answers are truncated to that."""
    num_beams: Count = 1
    """1: greedy."""

    @property
    def answer_limit(self) -> int:
        return self.max_new_tokens

    @property
    def beams(self) -> int:
        return self.num_beams


HeadSpec = Annotated[
    LinearHead | LabelWordsHead | ChoiceHead | GenerateHead, Field(discriminator="kind")
]

HEAD_SPECS: dict[str, type[BaseHead]] = {
    kind_of(spec): spec for spec in get_args(get_args(HeadSpec)[0])
}
"""`head.kind` -> its class."""


def heads_for(answers: AnswerKind) -> list[str]:
    """The kinds of head that can give such answers."""
    return [kind for kind, spec in HEAD_SPECS.items() if answers in spec.answers]
