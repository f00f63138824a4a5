"""Prompts: small fp32 modules that any engine can use, replicated.

A prompt has a prepended part (none, free tokens, SCPP) and an added part (none, a low-rank
pair, SCAP). PT, DePT and ACCEPT are three such pairs; see PromptShape.
"""

import torch
from torch import Tensor, nn

from accept_llm.methods.codebook import SoftCodebook
from accept_llm.methods.composed import Composed
from accept_llm.recipe.budget import PromptShape


class Prompt(nn.Module):
    """What is prepended, (m, d), and what is added to the word embeddings, (l, d)."""

    def __init__(self, shape: PromptShape):
        super().__init__()
        self.shape = shape
        self.tokens = self.prepended = self.added = self.pair = None
        if shape.prepended:
            self.prepended = SoftCodebook(shape.prepended)
        elif shape.length:
            self.tokens = nn.Parameter(torch.zeros(shape.length, shape.hidden))
        if shape.added:
            self.added = SoftCodebook(shape.added)
        elif shape.rank:
            self.pair = LowRankPair(shape.positions, shape.rank, shape.hidden)

    def compose(self) -> Composed:
        """Both parts in fp32, with their graph; once a step is enough."""
        added = self.added or self.pair
        return Composed(
            prefix=self.prepended.compose() if self.prepended else self.tokens,
            offsets=added.compose() if added else None,
        )

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """The trainable parameters by their learning-rate group."""
        added = self.added or self.pair
        ours = list(added.parameters()) if added else []
        known = {id(p) for p in ours}
        return {"prepended": [p for p in self.parameters() if id(p) not in known], "added": ours}


class LowRankPair(nn.Module):
    """DePT's added part: A (l, s) times B (s, d)."""

    def __init__(self, positions: int, rank: int, hidden: int):
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
