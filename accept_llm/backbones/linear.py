"""Frozen bf16 linear layers on a CPU without bf16 instructions.

torch multiplies there by slow generic loops: on two AVX2 cores (torch 2.13) 16 GFLOP/s forward
and 1.6 backward, where fp32 has 120. So a few rows of the weight at a time are made fp32; the
sums are exact to fp32 then, and rounded to bf16 once, as bf16 instructions do it.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Of a weight, that are fp32 at a time. glibc maps blocks over 32 MB anew each time, and with few
# tokens their page faults then take as long as the product.
ROWS = 512


def needs_fp32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch has no fast bf16 product here."""
    if device.type != "cpu" or dtype != torch.bfloat16:
        return False
    return not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def with_fp32_products(root: nn.Module) -> None:
    """Gives every linear layer below `root` the faster products, forward and backward."""
    for module in root.modules():
        if isinstance(module, nn.Linear) and module.weight.dtype == torch.bfloat16:
            layer: Any = module  # the class may be FSDP's: only the instance is changed
            layer.forward = partial(_forward, layer)


def _forward(layer: nn.Linear, x: Tensor) -> Tensor:
    return _Linear.apply(x, layer.weight, layer.bias)


class _Linear(torch.autograd.Function):
    """F.linear for a frozen weight and bias: only the input has a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        out = x.new_empty(*x.shape[:-1], len(weight))
        wide = x.float()
        for start in range(0, len(weight), ROWS):
            rows = slice(start, start + ROWS)
            added = None if bias is None else bias[rows].float()
            out[..., rows] = F.linear(wide, weight[rows].float(), added)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors  # (out, in)
        total: Tensor | None = None
        for part, rows in zip(grad.split(ROWS, dim=-1), weight.split(ROWS), strict=True):
            product = part.float() @ rows.float()
            total = product if total is None else total.add_(product)
        assert total is not None
        return total.to(grad.dtype), None, None
