"""Frozen language models, each with one differentiable call."""

from typing import Protocol

import torch
from torch import Tensor

from accept_llm.batches import Batch
from accept_llm.prompts import Composed


class Backbone(Protocol):
    """A frozen model, differentiable in what the prompt returns.

    The layout of a batch (padded or packed) is the backbone's business.
    """

    hidden_size: int
    vocab_size: int
    module: torch.nn.Module

    def __call__(self, batch: Batch, prompt: Composed, *, reads: str) -> Tensor:
        """States (B, d) or next-token logits (B, vocabulary) at each last real token."""

    def embed(self, ids: Tensor) -> Tensor:
        """Word embeddings (n, d) of token ids (n,)."""
