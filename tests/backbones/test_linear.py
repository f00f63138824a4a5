"""The products of frozen bf16 linear layers that avoid torch's slow loops."""

import pytest
import torch
from torch import nn

from accept_llm.backbones import linear
from accept_llm.backbones.linear import needs_fp32, with_fp32_products


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 33), (2, 3, 33)])
def test_products_are_the_exact_ones(monkeypatch, bias, shape):
    """Output and gradient are at least as close to float64's as torch's own."""
    monkeypatch.setattr(linear, "ROWS", 8)
    torch.manual_seed(0)
    layer = nn.Linear(33, 21, bias=bias).bfloat16().requires_grad_(False)
    x = torch.randn(shape).bfloat16().requires_grad_()
    weights = torch.randn(*shape[:-1], 21).bfloat16()
    want = layer(x)
    (torch_own,) = torch.autograd.grad((want * weights).sum(), x)
    with_fp32_products(nn.Sequential(layer))
    got = layer(x)
    (ours,) = torch.autograd.grad((got * weights).sum(), x)
    bias_or_0 = layer.bias.double() if bias else 0
    check(got, want, x.double() @ layer.weight.double().T + bias_or_0)
    check(ours, torch_own, weights.double() @ layer.weight.double())


def check(ours, torch_own, exact):
    assert ours.dtype == torch.bfloat16
    assert (ours - exact).abs().max() <= (torch_own - exact).abs().max()
    assert (ours - exact).norm() <= 2**-8 * exact.norm()


def test_only_bf16_on_a_cpu_needs_it():
    assert not needs_fp32(torch.device("cpu"), torch.float32)
    assert not needs_fp32(torch.device("cuda"), torch.bfloat16)
