"""The packed row through FlexAttention: its block mask against the rule, pair by pair, and its
states. The kernels have gradients on CUDA only."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.backbones import alone, close, gradients, wrap
from transformers import LlamaConfig, LlamaForCausalLM

from accept_llm.backbones import flex
from accept_llm.backbones.packed import Memory
from accept_llm.data.batches import collate
from accept_llm.data.encoding import Encoded
from accept_llm.methods.base import Composed

WIDTH, M = 32, 7
SIZES = {"vocab_size": 90, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.15}


def model_of(**sizes) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**(SIZES | sizes))).eval().requires_grad_(False)


def batch_of(lengths):
    draw = torch.Generator().manual_seed(1)
    rows = [torch.randint(3, 90, (n,), generator=draw).tolist() for n in lengths]
    return collate([Encoded(str(i), tuple(row), 0) for i, row in enumerate(rows)])


def prompt_of(*, prefix: bool = True, width: int = WIDTH) -> Composed:
    draw = torch.Generator().manual_seed(2)
    parts = [torch.randn(n, width, generator=draw) for n in (M, 300)]
    return Composed(parts[0] if prefix else None, parts[1])


def visible(lengths, m: int) -> torch.Tensor:
    """(m + n, m + n): the rule, pair by pair."""
    owner = [-1] * m + [i for i, n in enumerate(lengths) for _ in range(n)]
    return torch.tensor(
        [[j <= i and owner[j] in (-1, a) for j in range(len(owner))] for i, a in enumerate(owner)]
    )


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 150), min_size=1, max_size=6), st.integers(0, 140), st.booleans())
def test_the_mask_is_the_rule(lengths, m, outside):
    memory = Memory({torch.nn.Identity(): (torch.zeros(m, 1, 1),) * 2}) if outside else None
    packing = flex.pack_for_flex(torch.tensor(lengths), 0 if outside else m, memory=memory)
    want = visible(lengths, m)[m if outside else 0 :]
    mask, (queries, keys) = packing.mask, want.shape
    q, k = torch.arange(queries)[:, None], torch.arange(keys)
    assert torch.equal(mask.mask_mod(None, None, q, k), want)
    # No pair lies in a block that is left out, and no block is looked at for nothing.
    size = flex.BLOCK
    pad = torch.nn.functional.pad(want, (0, -keys % size, 0, -queries % size))
    blocks = pad.unflatten(0, (-1, size)).unflatten(2, (-1, size)).any(3).any(1)
    seen = mask.to_dense()[0, 0].bool()
    assert not (blocks & ~seen).any()
    assert (seen & ~blocks).sum() <= len(lengths)


@torch.no_grad()
@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_states_equal_the_examples_alone(prefix, kv_heads):
    """Two batches: the second one reads the prompt's keys from the memory, too."""
    lm, prompt = model_of(num_key_value_heads=kv_heads), prompt_of(prefix=prefix)
    backbone = wrap(lm, "packed_flex")
    for lengths in ((5, 140, 1, 9), (30, 30)):
        batch = batch_of(lengths)
        close(backbone(batch, prompt, reads="states"), alone(lm, batch, prompt))


@torch.no_grad()
def test_states_with_the_prompt_in_the_row(monkeypatch):
    lm, prompt, batch = model_of(), prompt_of(), batch_of((5, 140, 1, 9))
    backbone = wrap(lm, "packed_flex")
    monkeypatch.setattr(backbone, "_cached_prompt", lambda prompt: None)
    close(backbone(batch, prompt, reads="states"), alone(lm, batch, prompt))


@torch.no_grad()
@pytest.mark.slow
def test_one_compiled_kernel_serves_rows_of_all_lengths(monkeypatch):
    """As on CUDA; the compiled kernel leaves out the blocks that the mask leaves out."""
    from torch.nn.attention.flex_attention import flex_attention

    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(flex_attention, dynamic=True)
    monkeypatch.setattr(flex, "_kernel", lambda device_type: compiled)
    lm, prompt = model_of(hidden_size=64), prompt_of(width=64)
    backbone = wrap(lm, "packed_flex")
    monkeypatch.setattr(backbone, "_cached_prompt", lambda prompt: None)
    counts = []
    for lengths in ((5, 140, 1, 9), (30, 30), (200, 180, 3), (17,) * 20, (290, 1), (64,)):
        batch = batch_of(lengths)
        close(backbone(batch, prompt, reads="states"), alone(lm, batch, prompt))
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert counts[-1] == counts[2] <= 3, counts  # three kinds of sizes, not a kernel for each


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_equal_the_other_kernel(dtype):
    """With heads of 128, as Llama-2-7B's."""
    device = torch.device("cuda")
    sizes = {"hidden_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}
    lm = model_of(**sizes).to(device, dtype)
    batch, found = batch_of((5, 140, 1, 9, 250)).to(device), []
    for layout in ("packed", "packed_flex"):
        given = prompt_of(width=512)
        parts = (x.to(device).requires_grad_() for x in (given.prefix, given.offsets))
        prompt = Composed(*parts)
        backbone = wrap(lm, layout)
        backbone.dtype = dtype
        states = backbone(batch, prompt, reads="states").float()
        found.append([states, *gradients(states, prompt)])
    for a, b in zip(*found, strict=True):
        limit = 1e-3 if dtype == torch.float32 else 3e-2
        assert (a - b).norm() <= limit * b.norm()
