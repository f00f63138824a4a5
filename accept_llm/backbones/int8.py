"""Frozen weights in 8 bits: plain int8 numbers with a scale for every few inputs of a row.

The stored weight is round(w / s) with s = max|w| / 127 over a group; a product uses s * int8 in the
activations' dtype, forward and backward, so that the gradient to the input is exact for the weight
that is used. Parameters are plain tensors, which FSDP2 cuts up by rows like any other.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from accept_llm.backbones.linear import ROWS, needs_fp32
from accept_llm.errors import RecipeError

GROUPS = (64, 32)  # inputs that share a scale; a width that neither divides has one a row
CHUNK = 1 << 18  # numbers that are quantised at a time: few enough for a CPU's cache


def group_of(width: int) -> int:
    """How many inputs of a row share a scale."""
    return next((size for size in GROUPS if width % size == 0), width)


class _Quantised(nn.Module):
    """A frozen matrix (n, width): `weight` int8 and `scale` (n, width / group)."""

    weight: Tensor
    scale: Tensor

    def __init__(self, n: int, width: int, *, dtype: torch.dtype):
        super().__init__()
        self.out_features, self.in_features = n, width
        groups = width // group_of(width)
        empty = torch.empty(n, width, dtype=torch.int8, device="meta")
        self.weight = nn.Parameter(empty, requires_grad=False)
        scales = torch.empty(n, groups, dtype=dtype, device="meta")
        self.scale = nn.Parameter(scales, requires_grad=False)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, int8"


class Int8Linear(_Quantised):
    """A linear layer with 8-bit weights, put in the place of a frozen nn.Linear."""

    def __init__(self, like: nn.Linear):
        super().__init__(like.out_features, like.in_features, dtype=like.weight.dtype)
        self.bias = like.bias

    def forward(self, x: Tensor) -> Tensor:
        return _Product.apply(x, self.weight, self.scale, self.bias)


class Int8Conv1D(_Quantised):
    """GPT-2's linear layer, whose weight is (inputs, outputs), in 8 bits as it is stored."""

    def __init__(self, like: Any):
        super().__init__(*like.weight.shape, dtype=like.weight.dtype)
        self.bias = like.bias

    def forward(self, x: Tensor) -> Tensor:
        out = _TransposedProduct.apply(x, self.weight, self.scale)
        return out if self.bias is None else out + self.bias


class Int8Embedding(_Quantised):
    """Word embeddings in 8 bits, put in the place of a frozen nn.Embedding."""

    def __init__(self, like: nn.Embedding):
        super().__init__(like.num_embeddings, like.embedding_dim, dtype=like.weight.dtype)
        like.padding_idx = None  # what is looked up in is a few rows
        self._like = [like]  # in a list, so that it is no part of the model

    def forward(self, ids: Tensor) -> Tensor:
        """By the family's own forward (Gemma's scales what it looks up), in these rows alone."""
        rows = self.weight[ids.flatten()], self.scale[ids.flatten()]
        table = dequantise(*rows, dtype=self.scale.dtype)
        places = torch.arange(len(table), device=ids.device).view(ids.shape)
        return torch.func.functional_call(self._like[0], {"weight": table}, (places,))


class _Product(torch.autograd.Function):
    """F.linear with the dequantised weight, on the CPU with some rows of it at a time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return _by_rows(x, weight, scale=scale, bias=bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        weight, scale = ctx.saved_tensors
        return _by_columns(grad, weight, scale=scale), None, None, None


class _TransposedProduct(torch.autograd.Function):
    """x W with the dequantised weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return _by_columns(x, weight, scale=scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        return _by_rows(grad, weight, scale=scale), None, None


def _by_rows(x: Tensor, weight: Tensor, *, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + bias: (..., width) -> (..., n)."""
    wide, parts = _inner(x, len(weight))
    out = x.new_empty(*x.shape[:-1], len(weight))
    for part in parts:
        matrix = dequantise(weight[part], scale[part], dtype=wide.dtype)
        added = None if bias is None else bias[part].to(wide.dtype)
        out[..., part] = F.linear(wide, matrix, added)
    return out


def _by_columns(x: Tensor, weight: Tensor, *, scale: Tensor) -> Tensor:
    """x W: (..., n) -> (..., width)."""
    wide, parts = _inner(x, len(weight))
    total: Tensor | None = None
    for part in parts:
        product = wide[..., part] @ dequantise(weight[part], scale[part], dtype=wide.dtype)
        total = product if total is None else total.add_(product)
    assert total is not None
    return total.to(x.dtype)


def _inner(x: Tensor, rows: int) -> tuple[Tensor, list[slice]]:
    """x in the dtype of the product, and the parts of the weight's rows to take at a time."""
    if x.device.type != "cpu":
        return x, [slice(rows)]
    parts = [slice(start, start + ROWS) for start in range(0, rows, ROWS)]
    return (x.float() if needs_fp32(x.device, x.dtype) else x), parts


def dequantise(weight: Tensor, scale: Tensor, *, dtype: torch.dtype) -> Tensor:
    """int8 (n, width) and scales (n, groups) -> (n, width) in `dtype`."""
    grouped = weight.to(dtype).view(*scale.shape, weight.shape[1] // scale.shape[1])
    return grouped.mul_(scale[..., None].to(dtype)).view(weight.shape)


def quantise(rows: Tensor, weight: Tensor, *, scale: Tensor) -> None:
    """Fills int8 `weight` (n, width) and `scale` (n, groups) from rows (n, width)."""
    grouped = rows.float().view(*scale.shape, rows.shape[1] // scale.shape[1])
    scale.copy_(grouped.abs().amax(-1) / 127)
    divisor = scale.float().clamp(min=torch.finfo(torch.float32).tiny)  # as it is stored
    steps = (grouped / divisor[..., None]).round_().clamp_(-127, 127)
    weight.copy_(steps.view(weight.shape))


def fill_int8(weight: Tensor, scale: Tensor, *, read: Callable[..., None], start: int) -> None:
    """Quantises rows `start`, `start + 1`, ... of a stored matrix; `read(first, out=rows)`
    gives them, some at a time."""
    step = max(1, CHUNK // weight.shape[1])
    for first in range(0, len(weight), step):
        part = slice(first, first + step)
        rows = torch.empty(weight[part].shape, dtype=torch.float32, device=weight.device)
        read(start + first, out=rows)
        quantise(rows, weight[part], scale=scale[part])


def use_int8(lm: Any) -> None:
    """Puts empty 8-bit modules in place of every linear layer and of the word embeddings, below a
    model without memory (device meta); modules that share a weight share the 8-bit one.

    Norms, biases and position tables stay as they are. RecipeError names a matrix that is neither.
    """
    words, made = lm.get_input_embeddings(), dict[nn.Module, nn.Module]()
    twins: dict[Tensor, _Quantised] = {}
    for parent in list(lm.modules()):
        for name, child in list(parent.named_children()):
            if child in made:
                setattr(parent, name, made[child])
            elif new := _int8_of(child, is_words=child is words):
                twin = twins.setdefault(child.weight, new)
                new.weight, new.scale = twin.weight, twin.scale
                made[child] = new
                setattr(parent, name, new)
    _refuse_others(lm)


def _int8_of(module: Any, *, is_words: bool) -> _Quantised | None:
    """An empty 8-bit module for the place of another; None for one that stays."""
    if is_words:
        return Int8Embedding(module)
    if _is_linear(module):
        return Int8Linear(module)
    return Int8Conv1D(module) if type(module).__name__ == "Conv1D" else None


def _is_linear(module: nn.Module) -> bool:
    """Whether it computes what nn.Linear does; Falcon's does so by a forward of its own."""
    is_plain = type(module).forward is nn.Linear.forward
    return isinstance(module, nn.Linear) and (is_plain or type(module).__name__ == "FalconLinear")


def _refuse_others(lm: nn.Module) -> None:
    for where, module in lm.named_modules():
        if isinstance(module, _Quantised | nn.Embedding):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1:
                raise RecipeError(
                    [
                        f"model.quantization: got 'int8'; {type(lm).__name__} has {where}.{name}, "
                        f"a {type(module).__name__}; int8 needs linear layers; allowed: null"
                    ]
                )
