"""Frozen weights in 8 bits: ours against a plain loop over groups, and bitsandbytes' training."""

import json
from pathlib import Path

import pytest
import torch
from support.runs import finish, metrics, start, write_recipe
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.pytorch_utils import Conv1D

from accept_llm.backbones import int8
from accept_llm.backbones.int8 import Int8Conv1D, Int8Embedding, Int8Linear, group_of
from accept_llm.backbones.linear import needs_fp32
from accept_llm.backbones.loading import load_whole
from accept_llm.models.folder import ModelInfo, check_folder
from benchmarks.perplexity import both

CPU = torch.device("cpu")


def by_hand(weight: torch.Tensor) -> torch.Tensor:
    """Every group of inputs in steps of a 127th of its largest number, one number at a time."""
    out = torch.zeros_like(weight, dtype=torch.float64)
    size = group_of(weight.shape[1])
    for i, row in enumerate(weight.tolist()):
        for first in range(0, len(row), size):
            group = row[first : first + size]
            step = torch.tensor(max(map(abs, group)) / 127).to(weight.dtype).item()
            for j, value in enumerate(group):
                steps = max(-127, min(127, round(value / step))) if step else 0
                out[i, first + j] = steps * step
    return out


def filled(layer: nn.Linear | nn.Embedding | Conv1D) -> Int8Linear | Int8Embedding | Int8Conv1D:
    weight = layer.weight.detach()
    kinds = {nn.Embedding: Int8Embedding, nn.Linear: Int8Linear, Conv1D: Int8Conv1D}
    made = kinds[type(layer)](layer)
    made.weight = nn.Parameter(torch.empty(weight.shape, dtype=torch.int8), False)
    made.scale = nn.Parameter(torch.empty(made.scale.shape, dtype=weight.dtype), False)

    def read(start: int, *, out: torch.Tensor) -> None:
        out.copy_(weight[start : start + len(out)])

    int8.fill_int8(made.weight, made.scale, read=read, start=0)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [128, 96, 33])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer(monkeypatch, dtype, width, bias):
    monkeypatch.setattr(int8, "ROWS", 8)
    monkeypatch.setattr(int8, "CHUNK", 3 * width)
    torch.manual_seed(0)
    layer = nn.Linear(width, 21, bias=bias).to(dtype).requires_grad_(False)
    layer.weight[4] = 0
    layer.weight[5, :40] *= 1000
    used = by_hand(layer.weight)
    assert (used - layer.weight.double()).abs().max() > 0
    x = torch.randn(2, 3, width).to(dtype).requires_grad_()
    weights = torch.randn(2, 3, 21).to(dtype)
    got = filled(layer)(x)
    (gradient,) = torch.autograd.grad((got * weights).sum(), x)
    want = F.linear(x.double(), used, layer.bias.double() if bias else None)
    exact = weights.double() @ used
    limit = 1e-6
    if dtype == torch.bfloat16:  # products by bf16 instructions take the weights in bf16, too
        limit = 2**-8 if needs_fp32(x.device, dtype) else 2**-7
    for ours, theirs in ((got, want), (gradient, exact)):
        assert ours.dtype == dtype
        assert (ours - theirs).norm() <= limit * theirs.norm()


@pytest.mark.parametrize("width", [128, 33])
def test_a_layer_that_stores_its_weight_the_other_way(monkeypatch, width):
    """GPT-2's Conv1D: its weight is (inputs, outputs)."""
    monkeypatch.setattr(int8, "ROWS", 8)
    torch.manual_seed(0)
    layer = Conv1D(width, 21).requires_grad_(False)  # 21 inputs
    layer.bias.normal_()
    used = by_hand(layer.weight)
    x = torch.randn(2, 3, 21).requires_grad_()
    weights = torch.randn(2, 3, width)
    got = filled(layer)(x)
    (gradient,) = torch.autograd.grad((got * weights).sum(), x)
    want = x.detach().double() @ used + layer.bias.double()
    for ours, theirs in ((got, want), (gradient, weights.double() @ used.T)):
        assert (ours - theirs).norm() <= 1e-6 * theirs.norm()


def test_word_embeddings():
    torch.manual_seed(0)
    layer = nn.Embedding(11, 64)
    ids = torch.tensor([[3, 3, 10], [0, 1, 2]])
    want = by_hand(layer.weight)[ids].float()
    torch.testing.assert_close(filled(layer)(ids), want)
    assert filled(layer)(ids[:, :0]).shape == (2, 0, 64)


def info_of(folder: Path) -> ModelInfo:
    info, problems = check_folder(folder)
    assert info is not None, problems
    return info


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_t5", "tiny_t5_tied"])
def test_a_whole_model_is_that_of_its_rounded_weights(request, model):
    """Norms and T5's position tables stay as they are, and tied weights tied."""
    info = info_of(request.getfixturevalue(model))
    ours = load_whole(
        info, dtype="fp32", layout="padded", device=CPU, quantization="int8"
    ).module.lm
    causal = info.architecture == "causal"
    kind = AutoModelForCausalLM if causal else AutoModelForSeq2SeqLM
    theirs = kind.from_pretrained(info.folder).eval()
    named = dict(theirs.named_modules())
    for module in named.values():
        if isinstance(module, nn.Linear) or module is theirs.get_input_embeddings():
            module.weight.data = by_hand(module.weight).float()
    ids = torch.tensor([[5, 6, 7, 300], [9, 8, 7, 6]])
    more = {} if causal else {"decoder_input_ids": ids[:, :2]}
    with torch.no_grad():
        got, want = (lm(input_ids=ids, **more).logits for lm in (ours, theirs))
    assert (got - want).norm() <= 1e-5 * want.norm()
    left = {name for name, p in ours.named_parameters() if p.dtype != torch.int8 and p.ndim > 1}
    assert {name.split(".")[-1] for name in left if "relative_attention" not in name} == {"scale"}


@pytest.mark.parametrize("weights", ["bnb-int8", "bnb-nf4"])
@pytest.mark.parametrize("model", ["tiny_llama", "tiny_t5"])
def test_bitsandbytes_trains_on_the_cpu(request, tmp_path, model, weights):
    """The loss falls, over weights that take less memory."""
    pytest.importorskip("bitsandbytes")
    rates = {"prepended": 0.03, "added": 0.005, "head": 0.03}
    path = write_recipe(tmp_path, request.getfixturevalue(model), steps=20, lr=rates)
    held = {}
    for kept in "null", weights:
        changes = (f"name={kept}-run", "model.dtype=bf16", f"model.quantization={kept}")
        assert finish(start(path, *changes)) == [0]
        folder = tmp_path / "runs" / f"{kept}-run"
        losses = [line["loss"] for line in metrics(folder, of="loss")]
        assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
        held[kept] = json.loads((folder / "result.json").read_text())["frozen_bytes_per_rank"][0]
    assert held[weights] < 0.85 * held["null"]  # embeddings and head, half of a tiny model, stay


@pytest.mark.slow
def test_the_frozen_model_is_as_good_in_8_bits(data_dir):
    """SmolLM2 on 200 real texts."""
    wide, narrow = both("sst2")
    assert narrow == pytest.approx(wide, rel=0.02)
