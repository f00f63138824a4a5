"""The sizes of what is trained: how many parameters, prepended tokens and offsets a method has.

A budget buys codewords by the rule of the paper (appendix A): a codebook of r codewords over n
tokens has r*d + r*n*K parameters (eq. 7), and r is the largest that stays within the budget. Needs
no torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from accept_llm.recipe.types import Count, Positive, Size

STRICT = ConfigDict(extra="forbid")  # for the shapes that an adapter's card holds


@dataclass(frozen=True)
class CodebookShape:
    """A codebook that composes `tokens` vectors of width `hidden`."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    tokens: Count
    hidden: Count
    subspaces: Count
    codewords: Count

    @property
    def parameters(self) -> int:
        """Trained parameters: r*d + r*n*K (eq. 7)."""
        return self.codewords * (self.hidden + self.tokens * self.subspaces)

    @property
    def widths(self) -> list[int]:
        """Width of each subspace; the first d % K are one wider."""
        width, wider = divmod(self.hidden, self.subspaces)
        return [width + (k < wider) for k in range(self.subspaces)]


class Shape:
    """The sizes of a method on a model: what its module is built from and its card records.

    A subclass is a frozen dataclass of JSON values, so that a card can hold it.
    """

    length: int
    """m: the prepended tokens."""
    positions: int | None
    """l: the longest input, in tokens; None where any length will do."""

    @property
    def parameters(self) -> int:
        """Trained parameters of the whole method."""
        raise NotImplementedError

    @property
    def composed(self) -> int:
        """Vectors of the model's width that are composed in a step."""
        return self.length

    @property
    def inputs_kept(self) -> tuple[int, int]:
        """Numbers in fp32 that the backward pass keeps for each token of the input, and for each
        token of a decoder's, because of modules inside the frozen model."""
        return 0, 0

    def problems(self) -> Iterator[str]:
        """A line for each size of a card that contradicts another."""
        return iter(())


@dataclass(frozen=True)
class PromptShape(Shape):
    """The sizes of a prompt: prepended tokens, free or from a codebook, and added offsets, none,
    from a codebook or from a low-rank pair."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    hidden: Count
    length: Size
    positions: Count
    prepended: CodebookShape | None = None
    """None with length > 0: free prompt tokens."""
    added: CodebookShape | None = None
    rank: Count | None = None
    """Rank of DePT's added low-rank pair."""
    scale: Positive | None = None
    """What the parameters are in units of: the deviation of the model's word embeddings, which is
    measured when the module gets its first values. None: they are the vectors' own numbers."""

    @property
    def parameters(self) -> int:
        prepended = self.prepended.parameters if self.prepended else self.length * self.hidden
        added = self.added.parameters if self.added else 0
        return prepended + added + (self.rank or 0) * (self.hidden + self.positions)

    @property
    def composed(self) -> int:
        return self.length + (self.positions if self.added or self.rank else 0)

    def problems(self) -> Iterator[str]:
        parts = (("prepended", self.prepended, self.length), ("added", self.added, self.positions))
        for name, part, tokens in parts:
            if part and (part.tokens, part.hidden) != (tokens, self.hidden):
                got = f"{name}: got {part.tokens} tokens of width {part.hidden}"
                yield f"{got}; allowed: {tokens} of width {self.hidden}, as the rest says"
            if part and part.subspaces > part.hidden:
                yield f"{name}.subspaces: got {part.subspaces}; allowed: at most {part.hidden}"


@dataclass(frozen=True)
class LinearSize:
    """A linear layer of the frozen model."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: str
    """Its module's name below the language model: model.layers.0.self_attn.q_proj."""
    inputs: Count
    outputs: Count

    @property
    def reads_answers(self) -> bool:
        """Whether the layer reads the tokens of a decoder, not those of the input."""
        crosses = "EncDecAttention" in self.name and self.name.endswith((".k", ".v"))
        return self.name.startswith("decoder.") and not crosses


@dataclass(frozen=True)
class LoraShape(Shape):
    """The sizes of low-rank pairs beside linear layers."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    length: ClassVar[int] = 0  # type: ignore[misc]
    positions: ClassVar[int | None] = None  # type: ignore[misc]

    rank: Count
    alpha: Positive
    layers: tuple[LinearSize, ...]

    @property
    def parameters(self) -> int:
        return sum(self.rank * (layer.inputs + layer.outputs) for layer in self.layers)

    @property
    def inputs_kept(self) -> tuple[int, int]:
        kept = [0, 0]
        for layer in self.layers:
            kept[layer.reads_answers] += layer.inputs + self.rank
        return kept[0], kept[1]
