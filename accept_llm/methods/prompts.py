"""Prompts: ACCEPT, plain prompt tuning (PT) and DePT. Each has prepended tokens, free or composed
from a codebook, and may have offsets of the word embeddings, composed or from a low-rank pair.
"""

import torch
from torch import Tensor, nn

from accept_llm.methods.base import Composed, Method, Start
from accept_llm.methods.codebook import SoftCodebook
from accept_llm.methods.start import GAUSSIAN_STD, fill_tokens, vocabulary_rows
from accept_llm.recipe.budget import PromptShape
from accept_llm.recipe.method import Accept, BaseMethod, Dept, PromptTuning


class AcceptPrompt(Method):
    """SCPP, (m, d) prepended, and SCAP, (l, d) added: codebooks both (paper section 3.3)."""

    kind = "accept"

    def __init__(self, shape: PromptShape):
        super().__init__(shape)
        self.prepended = SoftCodebook(shape.prepended) if shape.prepended else None
        self.added = SoftCodebook(shape.added) if shape.added else None

    def initialise(self, spec: BaseMethod, start: Start) -> None:
        assert isinstance(spec, Accept), spec
        if self.prepended:
            if spec.prepended.init == "vocab":
                self.prepended.init_from(vocabulary_rows(self.shape.length, start))
            else:
                self.prepended.init_random(
                    spec.prepended.init, GAUSSIAN_STD, generator=start.generator
                )
        if self.added:
            assert spec.added is not None
            self.added.init_random(spec.added.init, GAUSSIAN_STD, generator=start.generator)

    def compose(self) -> Composed:
        return Composed(
            prefix=self.prepended.compose() if self.prepended else None,
            offsets=self.added.compose() if self.added else None,
        )

    def groups(self) -> dict[str, list[nn.Parameter]]:
        parts = {"prepended": self.prepended, "added": self.added}
        return {name: list(part.parameters()) if part else [] for name, part in parts.items()}


class PlainPrompt(Method):
    """PT: m free tokens."""

    kind = "pt"

    def __init__(self, shape: PromptShape):
        super().__init__(shape)
        self.tokens = nn.Parameter(torch.zeros(shape.length, shape.hidden))

    def initialise(self, spec: BaseMethod, start: Start) -> None:
        assert isinstance(spec, PromptTuning), spec
        fill_tokens(self.tokens, spec.init, start=start)

    def compose(self) -> Composed:
        return Composed(prefix=self.tokens)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {"prepended": [self.tokens]}


class DeptPrompt(Method):
    """DePT: m free tokens, and the product of a low-rank pair added."""

    kind = "dept"

    def __init__(self, shape: PromptShape):
        super().__init__(shape)
        assert shape.rank is not None, shape
        self.tokens = nn.Parameter(torch.zeros(shape.length, shape.hidden))
        self.pair = LowRankPair(shape.positions, shape.rank, hidden=shape.hidden)

    def initialise(self, spec: BaseMethod, start: Start) -> None:
        assert isinstance(spec, Dept), spec
        fill_tokens(self.tokens, spec.init, start=start)
        self.pair.init_zero(start.generator)

    def compose(self) -> Composed:
        return Composed(prefix=self.tokens, offsets=self.pair.compose())

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
    def init_zero(self, generator: torch.Generator) -> None:
        """A random, B zero: step 0 equals the frozen model, and B has a gradient."""
        self.a.normal_(0, self.a.shape[1] ** -0.5, generator=generator)
        self.b.zero_()
