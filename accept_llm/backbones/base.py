"""Frozen language models, each with differentiable calls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from accept_llm.data.batches import IGNORED, Batch
from accept_llm.methods.base import Composed

Layout = Literal["padded", "packed", "packed_flex"]
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Generation:
    """How a model writes: greedy with one beam, and never more than `limit` tokens."""

    limit: int
    beams: int
    end: int
    """The token that ends a text."""


class BackboneError(RuntimeError):
    """The frozen model cannot answer now, such as a swarm that has lost some of its blocks. What
    was trained so far is worth saving."""


class Backbone(Protocol):
    """A frozen model, differentiable in what the prompt returns.

    The layout of a batch (padded or packed) is the backbone's business. Where weights are
    sharded each call is a collective: all ranks make the same ones.
    """

    hidden_size: int
    vocab_size: int
    module: torch.nn.Module

    def __call__(self, batch: Batch, prompt: Composed, *, reads: str) -> Tensor:
        """States (B, d) or next-token logits (B, vocabulary) where the answer is due."""

    def log_likelihood(
        self, batch: Batch, prompt: Composed, *, answers: Tensor, owner: Tensor
    ) -> Tensor:
        """Log-likelihood (R,) of `answers` (R, a), padded with -100, each after the input of
        the example `owner` (R,) names."""

    def generate(self, batch: Batch, prompt: Composed, *, how: Generation) -> list[list[int]]:
        """The tokens that the model writes for each example, without the end; no gradient."""

    def positions(self, batch: Batch) -> int:
        """How many input positions are computed for the batch, padding included."""

    def embed(self, ids: Tensor) -> Tensor:
        """Word embeddings (n, d) of token ids (n,)."""


class Root(torch.nn.Module):
    """Holds the model; every use of a weight that may be sharded is inside `forward`.

    Sharding wraps this module from outside (engines/fsdp2.py). A weight touched elsewhere
    would mix torch.Tensor and DTensor. Without more, `forward` gives word embeddings.
    """

    def __init__(self, lm: Any):
        super().__init__()
        self.lm = plain_generation(lm)

    def embed_tokens(self, tokens: Tensor, offsets: Tensor | None) -> Tensor:
        """Tokens (b, t) -> word embeddings (b, t, d), with the offsets (t, d) added."""
        x = self.lm.get_input_embeddings()(tokens)
        return x if offsets is None else x + offsets

    def logits(self, at: Tensor, **inputs: Any) -> Tensor:
        """Logits (n, V) at `at` (n,) of the flattened positions, by the family's own forward: what
        it does before and after its LM head (a scale, a soft cap) is done, at these alone."""
        head = self.lm.get_output_embeddings()
        chosen = head.register_forward_pre_hook(lambda _, given: (given[0].flatten(0, 1)[at],))
        try:
            return self.lm(**inputs, use_cache=False).logits
        finally:
            chosen.remove()


@torch.no_grad()
def embed(root: torch.nn.Module, ids: Tensor) -> Tensor:
    """Word embeddings (n, d) of token ids (n,)."""
    device = next(root.parameters()).device
    return root(ids[None].to(device))[0]


def log_likelihoods(logits: Tensor, answers: Tensor) -> Tensor:
    """Logits (n, vocabulary) at the n answer tokens that are no padding, row by row, and
    `answers` (R, a) -> (R,): the sum over the tokens of each answer, in fp32."""
    real = answers != IGNORED
    rows = real.nonzero()[:, 0]
    losses = F.cross_entropy(logits.float(), answers[real], reduction="none")
    return losses.new_zeros(len(answers)).index_add(0, rows, -losses)


def truncate_at(end: int, tokens: Sequence[int]) -> list[int]:
    """The tokens before the first `end`."""
    tokens = list(tokens)
    return tokens[: tokens.index(end)] if end in tokens else tokens


def plain_generation(lm: Any) -> Any:
    """Removes the generation settings of the checkpoint, which only some ways of loading read."""
    from transformers import GenerationConfig

    lm.generation_config = GenerationConfig()
    return lm


def generation_arguments(how: Generation) -> dict[str, Any]:
    """`how` for transformers' generate. Where other processes take part (sharded weights), all
    of them write until the last one is done."""
    group = torch.distributed
    return {
        "max_new_tokens": how.limit,
        "num_beams": how.beams,
        "do_sample": False,
        "eos_token_id": how.end,
        "pad_token_id": how.end,
        "synced_gpus": group.is_available()
        and group.is_initialized()
        and group.get_world_size() > 1,
    }
