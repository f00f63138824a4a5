"""Prompts: small fp32 modules that any engine can use, replicated.

A prompt has a prepended part (none, free tokens, SCPP) and an added part (none, a low-rank
pair, SCAP). PT, DePT and ACCEPT are three such pairs; see PromptShape.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from accept_llm.budget import PromptShape
from accept_llm.prompts.codebook import SoftCodebook
from accept_llm.recipe import PromptSpec

GAUSSIAN_STD = 0.02  # the scale of word embeddings in Llama-like models
TOP_VOCABULARY = 5000  # Lester et al. sample prompts among the most common tokens


@dataclass(frozen=True)
class Composed:
    """What a backbone reads of a prompt."""

    prefix: Tensor | None
    """(m, d), prepended once."""
    offsets: Tensor | None
    """(l, d): the offset of each token position."""

    def leaves(self) -> "Composed":
        """The same numbers cut off from the graph, to collect gradients of several passes."""
        parts = (self.prefix, self.offsets)
        return Composed(*(None if x is None else x.detach().requires_grad_() for x in parts))

    def backward(self, leaves: "Composed") -> None:
        """Sends what `leaves` collected through the composition, once."""
        for whole, leaf in ((self.prefix, leaves.prefix), (self.offsets, leaves.offsets)):
            if whole is not None and leaf is not None and leaf.grad is not None:
                whole.backward(leaf.grad)


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


Vocabulary = Callable[[Tensor], Tensor]
"""Token ids (n,) -> their word embeddings (n, d)."""


def sample_vocabulary(count: int, vocab_size: int, generator: torch.Generator) -> Tensor:
    """`count` ids out of the most common tokens, without repeats where there are enough."""
    top = min(TOP_VOCABULARY, vocab_size)
    order = torch.randperm(top, generator=generator)
    return order.repeat(-(-count // top))[:count]


def build_prompt(
    spec: PromptSpec, shape: PromptShape, *, embed: Vocabulary, vocab_size: int, seed: int
) -> Prompt:
    """A freshly initialised prompt; the same seed gives the same numbers in every engine."""
    prompt = Prompt(shape)
    generator = torch.Generator().manual_seed(seed)
    _init_prepended(prompt, spec, embed=embed, vocab_size=vocab_size, generator=generator)
    if prompt.pair:
        prompt.pair.init_zero(generator)
    if prompt.added:
        assert spec.kind == "accept"
        assert spec.added
        if spec.added.init == "kaiming":
            prompt.added.init_kaiming(generator)
        else:  # "zero" is a Gaussian start without codewords: W keeps C's gradient alive
            prompt.added.init_gaussian(GAUSSIAN_STD, generator)
            if spec.added.init == "zero":
                prompt.added.codewords.data.zero_()
    return prompt


def _init_prepended(
    prompt: Prompt,
    spec: PromptSpec,
    *,
    embed: Vocabulary,
    vocab_size: int,
    generator: torch.Generator,
) -> None:
    init = spec.prepended.init if spec.kind == "accept" else spec.init
    length = prompt.shape.length
    if not length:
        return
    if init == "vocab":
        rows = embed(sample_vocabulary(length, vocab_size, generator)).float().cpu()
    elif prompt.tokens is not None:
        rows = torch.empty(length, prompt.shape.hidden)
        if init == "gaussian":
            rows.normal_(0, GAUSSIAN_STD, generator=generator)
        else:
            bound = prompt.shape.hidden**-0.5
            rows.uniform_(-bound, bound, generator=generator)
    if prompt.tokens is not None:
        prompt.tokens.data.copy_(rows)
        return
    assert prompt.prepended is not None
    if init == "vocab":
        prompt.prepended.init_from(rows)
    elif init == "gaussian":
        prompt.prepended.init_gaussian(GAUSSIAN_STD, generator)
    else:
        prompt.prepended.init_kaiming(generator)
