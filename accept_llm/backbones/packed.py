"""Attention over one packed row, [P][x_1]..[x_B]: every example sees the prompt and, causally,
itself. Memory is linear in the tokens of the row; no mask of the whole row is ever made.

It is registered with transformers' AttentionInterface. Without a `packing` (a model that
writes) it is transformers' own SDPA attention.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from accept_llm.backbones.linear import needs_fp32

NAME = "accept_packed"
STRETCH = 1.5  # the longest example of a group is at most so many times its shortest


Row = tuple[Tensor, Tensor, Tensor]
"""Query (1, h, T, c), key and value (1, g, T, c), g dividing h."""


@dataclass(frozen=True)
class Group:
    """b examples of about one length t: `places` (b, t) of their tokens in the row, padded with
    the example's first, and which of them are `real` (b, t)."""

    places: Tensor
    real: Tensor


@dataclass(frozen=True)
class Packing:
    """How a row is made up: `prefix` tokens of the prompt, then the examples."""

    prefix: int
    groups: tuple[Group, ...]
    order: Tensor
    """(T,): where each token of the row is in the groups' outputs, laid end to end."""
    memory: "Memory | None" = None

    def attend(self, module: torch.nn.Module, row: Row, *, scaling: float | None) -> Tensor:
        """-> (1, T, h, c)."""
        m, dtype = self.prefix, row[0].dtype
        if needs_fp32(row[0].device, dtype):
            row = (row[0].float(), row[1].float(), row[2].float())
        q, k, v = (x[0].transpose(0, 1) for x in row)  # (T, heads, c)
        prompt = (k[:m], v[:m])
        if self.memory is not None:
            prompt = self.memory.kept.setdefault(module, prompt)
        parts = [
            _attend(
                q[None, :m], k[None, :m], v=v[None, :m], prompt=(k[:0], v[:0]), scaling=scaling
            )[0]
        ]
        for group in self.groups:
            at = group.places  # (b, t)
            parts.append(_attend(q[at], k[at], v=v[at], prompt=prompt, scaling=scaling)[group.real])
        return torch.cat(parts)[self.order][None].to(dtype)


@dataclass(frozen=True)
class Memory:
    """Keys and values (m, g, c) of a prompt that is not in the row, by attention module. A row of
    the prompt alone fills it; rows of examples alone read it."""

    kept: dict[torch.nn.Module, tuple[Tensor, Tensor]]


def pack(lengths: Tensor, prefix: int, *, memory: Memory | None = None) -> Packing:
    """The packing of examples of `lengths` (B,), in their order, behind `prefix` tokens; B = 0
    with a memory fills it."""
    device = lengths.device
    starts = prefix + lengths.cumsum(0) - lengths
    sizes = lengths.tolist()
    ranked = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    groups, done = [], [torch.arange(prefix, device=device)]
    while ranked:
        longest = sizes[ranked[0]]
        count = sum(sizes[i] * STRETCH >= longest for i in ranked)
        chosen = torch.tensor(ranked[:count], device=device)
        ranked = ranked[count:]
        steps = torch.arange(longest, device=device)
        real = steps < lengths[chosen][:, None]
        places = starts[chosen][:, None] + torch.where(real, steps, 0)
        groups.append(Group(places, real))
        done.append(places[real])
    return Packing(prefix, tuple(groups), torch.cat(done).argsort(), memory)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    packing: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as `packing` has it (a Packing, or flex.py's): see Row."""
    row = (query, key, value)
    if packing is not None:
        return packing.attend(module, row, scaling=scaling), None
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(module, *row, attention_mask, scaling=scaling, **kwargs)


def _attend(
    q: Tensor, k: Tensor, *, v: Tensor, prompt: tuple[Tensor, Tensor], scaling: float | None
) -> Tensor:
    """b rows of t tokens that see the m tokens of the prompt and, causally, themselves:
    q (b, t, h, c), k and v (b, t, g, c), keys and values of the prompt (m, g, c) -> (b, t, h, c).

    The heads that share keys are put side by side in the query, so that no key is copied.
    """
    (b, t, h, c), g, m = q.shape, k.shape[2], len(prompt[0])
    shared = h // g
    q = q.view(b, t, g, shared, c).permute(0, 2, 3, 1, 4).reshape(b, g, shared * t, c)
    k, v = (
        torch.cat([shared_by_all.expand(b, -1, -1, -1), own], dim=1).transpose(1, 2)
        for shared_by_all, own in zip(prompt, (k, v), strict=True)
    )
    sees = torch.ones(t, m + t, dtype=torch.bool, device=q.device).tril(m).repeat(shared, 1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=sees, scale=scaling)
    return out.view(b, g, shared, t, c).permute(0, 3, 1, 2, 4).reshape(b, t, h, c)


def use_packed_attention(lm: Any) -> None:
    """Gives `lm` the attention that reads a `packing` from its forward call."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)  # for a model that writes
    lm.set_attn_implementation(NAME)
