"""How methods start."""

from collections.abc import Callable

import torch
from torch import Tensor

from accept_llm.methods.prompts import Prompt
from accept_llm.recipe.budget import PromptShape
from accept_llm.recipe.method import PromptSpec

GAUSSIAN_STD = 0.02  # the scale of word embeddings in Llama-like models
TOP_VOCABULARY = 5000  # Lester et al. sample prompts among the most common tokens


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
