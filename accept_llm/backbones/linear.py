"""The gradient of frozen bf16 linear layers on a CPU without bf16 instructions.

torch multiplies there by a slow generic loop wherever the weight is not transposed, which is
the case in the backward pass: 0.1 to 0.2 GFLOP/s on one core (AVX2, torch 2.13), where the
forward pass has 10. A few rows of the weight at a time, in fp32, have 3 to 20.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROWS = 512  # of a weight that are fp32 at a time


def needs_fp32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch has no fast bf16 product here."""
    if device.type != "cpu" or dtype != torch.bfloat16:
        return False
    return not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def with_fp32_gradients(root: nn.Module) -> None:
    """Gives every linear layer below `root` the faster gradient; what it computes stays."""
    for module in root.modules():
        if isinstance(module, nn.Linear):
            layer: Any = module  # the class may be FSDP's: only the instance is changed
            layer.forward = partial(_forward, layer)


def _forward(layer: nn.Linear, x: Tensor) -> Tensor:
    return _Linear.apply(x, layer.weight, layer.bias)


class _Linear(torch.autograd.Function):
    """As F.linear, for a weight and a bias that are frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors  # (out, in)
        total = grad.new_zeros((*grad.shape[:-1], weight.shape[1]), dtype=torch.float32)
        for part, rows in zip(grad.split(ROWS, dim=-1), weight.split(ROWS), strict=True):
            total += part.float() @ rows.float()
        return total.to(grad.dtype), None, None
