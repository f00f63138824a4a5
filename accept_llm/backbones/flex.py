"""A packed row through torch's FlexAttention: one kernel for all examples, on CUDA. A block mask
says which blocks of keys a block of queries can see at all; it is made from the examples' lengths,
never from a mask of the whole row.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from accept_llm.backbones.packed import Memory, Row

BLOCK = 128  # queries or keys of a block: FlexAttention's own size


@dataclass(frozen=True)
class FlexPacking:
    """How a row is made up: `prefix` tokens of the prompt, then the examples. The keys are those of
    a prompt that the memory has, where the row has none, and then the row's."""

    prefix: int
    mask: Any
    memory: Memory | None = None

    def attend(self, module: torch.nn.Module, row: Row, *, scaling: float | None) -> Tensor:
        """-> (1, T, h, c)."""
        query, key, value = row
        if self.memory is not None:
            m = self.prefix
            fresh = (key[0, :, :m].transpose(0, 1), value[0, :, :m].transpose(0, 1))
            prompt = self.memory.kept.setdefault(module, fresh)
            if not m:
                key, value = (
                    torch.cat([kept.transpose(0, 1)[None], own], dim=2)
                    for kept, own in zip(prompt, (key, value), strict=True)
                )
        out = _kernel(query.device.type)(
            query, key, value, block_mask=self.mask, scale=scaling, enable_gqa=True
        )
        return out.transpose(1, 2)


def pack_for_flex(lengths: Tensor, prefix: int, *, memory: Memory | None = None) -> FlexPacking:
    """The packing of a row, as packed.pack makes it: examples of `lengths` (B,) behind `prefix`
    tokens; B = 0 with a memory fills the memory, and without a prefix the memory is read."""
    outside = 0
    if memory is not None and not prefix:
        outside = len(next(iter(memory.kept.values()))[0])
    return FlexPacking(prefix, _block_mask(lengths, prefix, outside=outside), memory)


def _block_mask(lengths: Tensor, prefix: int, *, outside: int) -> Any:
    from torch.nn.attention.flex_attention import BlockMask

    device, m = lengths.device, prefix + outside
    counts = torch.cat([lengths.new_tensor([m]), lengths])
    # Of every key, where its example begins; the prompt is the first of them.
    start = (counts.cumsum(0) - counts).repeat_interleave(counts)
    place = torch.arange(outside, len(start), device=device)  # of each query among the keys
    begin, shared = start[place], torch.arange(len(start), device=device) < m

    # It reads tensors only: a number in it would be compiled in.
    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= place[query]) & ((key >= begin[query]) | shared[key])

    total = len(start)
    queries, blocks = total - outside, torch.arange(-(-total // BLOCK), device=device)
    first = torch.arange(0, queries, BLOCK, device=device) + outside
    last = (first + BLOCK - 1).clamp(max=total - 1)
    own = (blocks >= start[first][:, None] // BLOCK) & (blocks <= last[:, None] // BLOCK)
    visible = own | ((blocks * BLOCK < m) & (blocks <= last[:, None] // BLOCK))
    return BlockMask.from_kv_blocks(
        visible.sum(1, dtype=torch.int32)[None, None],
        visible.int().argsort(dim=1, descending=True, stable=True).int()[None, None],
        BLOCK_SIZE=BLOCK,
        mask_mod=sees,
        seq_lengths=(queries, total),
    )


@cache
def _kernel(device_type: str) -> Any:
    """Compiled for any length of row; on a CPU, where it has no gradient, for tests only."""
    from torch.nn.attention.flex_attention import flex_attention

    if device_type != "cuda":
        return flex_attention
    return torch.compile(flex_attention, dynamic=True)
