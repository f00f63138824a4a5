"""The first values of prompts: word embeddings of common tokens, or draws; and the scale of a
model's word embeddings, which a prompt is held in units of.
"""

import math

import torch
from torch import Tensor

from accept_llm.errors import RecipeError
from accept_llm.methods.base import Start

GAUSSIAN_STD = 0.02  # the scale of word embeddings in Llama-like models
TOP_VOCABULARY = 5000  # Lester et al. sample prompts among the most common tokens


def sample_vocabulary(count: int, vocab_size: int, *, generator: torch.Generator) -> Tensor:
    """`count` ids out of the most common tokens, without repeats where there are enough."""
    top = min(TOP_VOCABULARY, vocab_size)
    order = torch.randperm(top, generator=generator)
    return order.repeat(-(-count // top))[:count]


def vocabulary_rows(count: int, start: Start) -> Tensor:
    """Word embeddings (count, d) of sampled tokens, fp32 on the CPU."""
    ids = sample_vocabulary(count, start.vocab_size, generator=start.generator)
    return start.embed(ids).float().cpu()


def first_rows(init: str, count: int, *, start: Start) -> Tensor:
    """Word embeddings (count, d), fp32 on the CPU: of solved training examples or of
    sampled tokens."""
    if init == "vocab":
        return vocabulary_rows(count, start)
    if start.examples is None:
        got = "method: init is examples, but there is no training data here"
        raise RecipeError([f"{got}; allowed: init vocab or gaussian"])
    return start.embed(start.examples(count)).float().cpu()


def interpolation(positions: int, codewords: int) -> Tensor:
    """Weights (positions, codewords), each row of sum 1: a codeword belongs to a place in the text,
    and a position between two places takes a part of both. At the start of a text the places are
    one position apart; they lie further apart, in proportion, the further back they are. There
    are at most as many codewords as positions."""
    assert 0 < codewords <= positions, (codewords, positions)
    last = codewords - 1
    offset = 1.0
    while last * math.log1p(1 / offset) > math.log1p((positions - 1) / offset):
        if offset > positions**2:  # as many codewords as positions: one for each
            return torch.eye(positions)
        offset *= 1.05
    places = torch.log1p(torch.arange(positions) / offset)
    places = places * (last / places[-1].clamp(min=1e-9))
    return (1 - (places[:, None] - torch.arange(codewords)).abs()).clamp(min=0)


def embedding_scale(start: Start) -> float:
    """The standard deviation of all numbers in the word embeddings of the most common tokens;
    RecipeError where it is 0 or not finite."""
    top = min(TOP_VOCABULARY, start.vocab_size)
    scale = start.embed(torch.arange(top)).double().cpu().std().item()
    if not 0 < scale < math.inf:
        got = f"method.scale: got embeddings, but the model's have deviation {scale}"
        raise RecipeError([f"{got}; allowed: none"])
    return scale


@torch.no_grad()
def fill_tokens(tokens: Tensor, init: str, *, start: Start, scale: float | None) -> None:
    """Fills free prompt tokens (m, d) as `method.init` says: examples, vocab, gaussian or kaiming;
    in units of `scale`, if there is one."""
    if init in ("examples", "vocab"):
        tokens.copy_(first_rows(init, len(tokens), start=start) / (scale or 1))
    elif init == "gaussian":
        tokens.normal_(0, 1 if scale else GAUSSIAN_STD, generator=start.generator)
    else:
        bound = tokens.shape[1] ** -0.5
        tokens.uniform_(-bound, bound, generator=start.generator)
