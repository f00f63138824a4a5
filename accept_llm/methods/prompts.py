"""Prompts: ACCEPT, plain prompt tuning (PT) and DePT. Each has prepended tokens, free or composed
from a codebook, and may have offsets of the word embeddings, composed or from a low-rank pair.

A prompt with a scale holds its parameters in units of it, balanced so that one AdamW step of rate
`lr` moves a composed vector by about `lr` times the scale in each coordinate, whatever the sizes
are: a product of two factors of deviation `BALANCED` over r terms is divided by 2 sqrt(r).
docs/learning.md derives it.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from accept_llm.methods.base import Composed, Method, Start
from accept_llm.methods.codebook import SoftCodebook
from accept_llm.methods.start import (
    GAUSSIAN_STD,
    embedding_scale,
    fill_tokens,
    first_rows,
    interpolation,
)
from accept_llm.recipe.budget import PromptShape
from accept_llm.recipe.method import Accept, BaseMethod, Dept, PromptMethod, PromptTuning

BALANCED = 2**0.5


class Prompt(Method):
    """Trained vectors, in units of `shape.scale` where there is one."""

    shape: PromptShape

    def initialise(self, spec: BaseMethod, start: Start) -> None:
        assert isinstance(spec, PromptMethod), spec
        if spec.scale == "embeddings":
            self.shape = replace(self.shape, scale=embedding_scale(start))
        self.fill(spec, start)

    def fill(self, spec: PromptMethod, start: Start) -> None:
        """Puts the first values in place."""
        raise NotImplementedError

    def factor(self, terms: int) -> float:
        """What a product of two trained factors over so many terms is multiplied by."""
        scale = self.shape.scale
        return 1.0 if scale is None else scale / (2 * terms**0.5)

    def of_tokens(self, tokens: Tensor) -> Tensor:
        """The vectors of free tokens."""
        return tokens if self.shape.scale is None else tokens * self.shape.scale


class AcceptPrompt(Prompt):
    """SCPP, (m, d) prepended, and SCAP, (l, d) added: codebooks both (paper section 3.3)."""

    kind = "accept"

    def __init__(self, shape: PromptShape):
        super().__init__(shape)
        self.prepended = SoftCodebook(shape.prepended) if shape.prepended else None
        self.added = SoftCodebook(shape.added) if shape.added else None

    def fill(self, spec: PromptMethod, start: Start) -> None:
        assert isinstance(spec, Accept), spec
        if self.prepended:
            usual = "examples" if spec.scale != "none" and start.examples else "vocab"
            self._fill(self.prepended, spec.prepended.init or usual, start=start)
        if self.added:
            assert spec.added is not None
            self._fill(self.added, spec.added.init, start=start)

    def _fill(self, book: SoftCodebook, init: str, *, start: Start) -> None:
        if init == "kaiming":
            book.init_kaiming(start.generator)
        elif init in ("examples", "vocab"):
            self._fit(book, first_rows(init, book.shape.tokens, start=start), start=start)
        elif init == "zero":
            self._fill_zero(book, start)
        elif self.shape.scale is None:
            plain = {"weights": book.shape.codewords**-0.5, "codewords": GAUSSIAN_STD}
            book.init_gaussian(**plain, generator=start.generator)
        else:
            book.init_gaussian(weights=BALANCED, codewords=BALANCED, generator=start.generator)

    def _fit(self, book: SoftCodebook, rows: Tensor, *, start: Start) -> None:
        """The best fit of the rows (n, d)."""
        if self.shape.scale is None:
            book.init_from(rows)
            return
        book.init_gaussian(weights=BALANCED, codewords=0.0, generator=start.generator)
        book.init_from(rows / self.factor(book.shape.codewords), weights=BALANCED)

    def _fill_zero(self, book: SoftCodebook, start: Start) -> None:
        """Codewords of 0, so that step 0 equals the frozen model, and weights that keep their
        gradients alive: each codeword for a place in the text, or draws without a scale."""
        terms = book.shape.codewords
        weights = terms**-0.5 if self.shape.scale is None else 2.0
        book.init_gaussian(weights=weights, codewords=0.0, generator=start.generator)
        if self.shape.scale is not None:
            used = min(terms, book.shape.tokens)
            shares = interpolation(book.shape.tokens, used) * (2 * terms**0.5)
            book.weights.data[:, :, :used] = shares[:, None]

    def _compose(self, book: SoftCodebook) -> Tensor:
        return book.compose() * self.factor(book.shape.codewords)

    def compose(self) -> Composed:
        return Composed(
            prefix=self._compose(self.prepended) if self.prepended else None,
            offsets=self._compose(self.added) if self.added else None,
        )

    def groups(self) -> dict[str, list[nn.Parameter]]:
        parts = {"prepended": self.prepended, "added": self.added}
        return {name: list(part.parameters()) if part else [] for name, part in parts.items()}


class PlainPrompt(Prompt):
    """PT: m free tokens."""

    kind = "pt"

    def __init__(self, shape: PromptShape):
        super().__init__(shape)
        self.tokens = nn.Parameter(torch.zeros(shape.length, shape.hidden))

    def fill(self, spec: PromptMethod, start: Start) -> None:
        assert isinstance(spec, PromptTuning), spec
        fill_tokens(self.tokens, spec.init, start=start, scale=self.shape.scale)

    def compose(self) -> Composed:
        return Composed(prefix=self.of_tokens(self.tokens))

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {"prepended": [self.tokens]}


class DeptPrompt(Prompt):
    """DePT: m free tokens, and the product of a low-rank pair added."""

    kind = "dept"

    def __init__(self, shape: PromptShape):
        super().__init__(shape)
        assert shape.rank is not None, shape
        self.tokens = nn.Parameter(torch.zeros(shape.length, shape.hidden))
        self.pair = LowRankPair(shape.positions, shape.rank, hidden=shape.hidden)

    def fill(self, spec: PromptMethod, start: Start) -> None:
        assert isinstance(spec, Dept), spec
        fill_tokens(self.tokens, spec.init, start=start, scale=self.shape.scale)
        rank = self.pair.a.shape[1]
        deviation = rank**-0.5 if self.shape.scale is None else 2.0
        self.pair.init_zero(deviation, start.generator)

    def compose(self) -> Composed:
        offsets = self.pair.compose() * self.factor(self.pair.a.shape[1])
        return Composed(prefix=self.of_tokens(self.tokens), offsets=offsets)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {"prepended": [self.tokens], "added": list(self.pair.parameters())}


class LowRankPair(nn.Module):
    """DePT's added part: A (l, s) times B (s, d)."""

    def __init__(self, positions: int, rank: int, *, hidden: int):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(positions, rank))
        self.b = nn.Parameter(torch.zeros(rank, hidden))

    def compose(self) -> Tensor:
        return self.a @ self.b

    @torch.no_grad()
    def init_zero(self, deviation: float, generator: torch.Generator) -> None:
        """A random, B zero: step 0 equals the frozen model, and B has a gradient."""
        self.a.normal_(0, deviation, generator=generator)
        self.b.zero_()
