"""The packed row against each example alone, over drawn batches; and its memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.backbones import alone, close, gradients, wrap
from transformers import LlamaConfig, LlamaForCausalLM

from accept_llm.backbones.packed import pack
from accept_llm.data.batches import collate
from accept_llm.data.encoding import Encoded
from accept_llm.methods.base import Composed

WIDTH, M, LONGEST = 32, 7, 300
LENGTHS = st.one_of(
    st.lists(st.integers(1, 40), min_size=1, max_size=64),
    st.lists(st.integers(1, LONGEST), min_size=1, max_size=6),
)


@pytest.fixture(scope="module", params=[4, 2, 1], ids=["mha", "gqa", "mqa"])
def lm(request) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        **{"vocab_size": 90, "hidden_size": WIDTH, "intermediate_size": 48},
        **{"num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.15},
        num_key_value_heads=request.param,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


@settings(max_examples=12, deadline=None)
@given(LENGTHS, st.booleans(), st.booleans(), st.integers(0, 2**20))
def test_any_batch_equals_its_examples_alone(lm, lengths, prefix, offsets, seed):
    draw = torch.Generator().manual_seed(seed)
    rows = [torch.randint(3, 90, (n,), generator=draw).tolist() for n in lengths]
    batch = collate([Encoded(str(i), tuple(row), 0) for i, row in enumerate(rows)])
    parts = [torch.randn(n, WIDTH, generator=draw).requires_grad_() for n in (M, LONGEST)]
    prompt = Composed(parts[0] if prefix else None, parts[1] if offsets else None)
    # `wrap` sets the model's attention, which a model alone does not mind.
    got = wrap(lm, "packed")(batch, prompt, reads="states")
    want = alone(lm, batch, prompt)
    close(got, want)
    for a, b in zip(gradients(got, prompt), gradients(want, prompt), strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm().clamp(min=1)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(0, 9))
@settings(deadline=None)
def test_groups_hold_each_token_once_and_little_else(lengths, prefix):
    packing = pack(torch.tensor(lengths), prefix)
    places = [group.places[group.real].tolist() for group in packing.groups]
    assert sorted(p for part in places for p in part) == list(range(prefix, prefix + sum(lengths)))
    assert sorted(packing.order.tolist()) == list(range(prefix + sum(lengths)))
    computed = sum(group.places.numel() for group in packing.groups)
    assert computed <= 1.5 * sum(lengths) + len(lengths)


@torch.no_grad()
def test_an_evaluation_computes_the_prompt_once(lm, monkeypatch):
    """The same states as with gradients, and the prompt goes through the model a single time."""
    backbone = wrap(lm, "packed")
    batches = [
        collate([Encoded(str(i), tuple(range(3, 3 + n)), 0) for i, n in enumerate(lengths)])
        for lengths in ((5, 9, 2), (4, 4), (30,))
    ]
    draw = torch.Generator().manual_seed(1)
    prompts = [
        Composed(*(torch.randn(n, WIDTH, generator=draw) for n in (M, LONGEST))) for _ in range(2)
    ]
    rows = []
    real = backbone.module.forward
    monkeypatch.setattr(
        backbone.module, "forward", lambda tokens, **k: rows.append(k) or real(tokens, **k)
    )
    for prompt in prompts:
        found = [backbone(batch, prompt, reads="states") for batch in batches]
        for states, batch in zip(found, batches, strict=True):
            close(states, alone(lm, batch, prompt))
    assert ["prefix" in row["prompt"] for row in rows] == [True, False, False, False] * 2


def waiting(lm, tokens: int) -> int:
    """Bytes that wait for the backward pass of a batch of so many tokens, 256 or fewer each."""
    draw = torch.Generator().manual_seed(2)
    lengths = [256 - i % 200 for i in range(1000)]
    count = next(n for n in range(1000) if sum(lengths[:n]) >= tokens)
    rows = [torch.randint(3, 90, (n,), generator=draw).tolist() for n in lengths[:count]]
    batch = collate([Encoded(str(i), tuple(row), 0) for i, row in enumerate(rows)])
    prompt = Composed(
        torch.randn(M, WIDTH, generator=draw).requires_grad_(),
        torch.randn(256, WIDTH, generator=draw).requires_grad_(),
    )
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        states = wrap(lm, "packed")(batch, prompt, reads="states")
    del states
    return sum(kept.values())


def test_memory_is_linear_in_the_tokens(lm):
    """A mask of the row would have four times the bytes for twice the tokens."""
    once, twice = waiting(lm, 4_000), waiting(lm, 8_000)
    assert 1.5 < twice / once < 2.2
