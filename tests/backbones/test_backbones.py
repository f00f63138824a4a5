"""The frozen model against plain transformers and PEFT, one example at a time and unpadded."""

import dataclasses
from pathlib import Path

import pytest
import torch
from support.backbones import CPU, LENGTHS, L, M, alone, close, gradients, info_of, prompt_of, wrap
from support.families import save_family
from transformers import AutoModelForCausalLM

from accept_llm.backbones.causal import CausalBackbone
from accept_llm.backbones.families import choose_layout
from accept_llm.backbones.loading import load_whole
from accept_llm.data.batches import Batch, collate
from accept_llm.data.encoding import Encoded
from accept_llm.errors import RecipeError
from accept_llm.methods.base import Composed
from accept_llm.models.folder import ModelInfo


def batch_of(vocabulary: int) -> Batch:
    draw = torch.Generator().manual_seed(3)
    rows = [torch.randint(3, vocabulary, (n,), generator=draw).tolist() for n in LENGTHS]
    return collate([Encoded(str(i), tuple(row), 0) for i, row in enumerate(rows)])


def agree(lm, layout: str, prompt: Composed) -> None:
    """States and gradients of a batch equal those of the examples alone."""
    batch = batch_of(lm.config.vocab_size)
    want = alone(lm.eval(), batch, prompt)
    got = wrap(lm, layout)(batch, prompt, reads="states")
    assert want.std() > 0.1
    close(got, want)
    for a, b in zip(gradients(got, prompt), gradients(want, prompt), strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()


@pytest.fixture(params=["tiny_llama", "stories"])
def llama(request):
    folder = request.getfixturevalue(request.param)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


LAYOUTS = pytest.mark.parametrize("layout", ["padded", "packed"])


@LAYOUTS
@pytest.mark.parametrize(("prefix", "offsets"), [(1, 1), (1, 0), (0, 1), (0, 0)])
def test_llama_batch_equals_its_examples(llama, layout, prefix, offsets):
    hidden = llama.config.hidden_size
    agree(llama, layout, prompt_of(hidden, prefix=bool(prefix), offsets=bool(offsets)))


@LAYOUTS
def test_logits_are_the_lm_heads(tiny_llama, layout):
    lm = AutoModelForCausalLM.from_pretrained(tiny_llama)
    batch, prompt = batch_of(lm.config.vocab_size), prompt_of(64)
    close(wrap(lm, layout)(batch, prompt, reads="logits"), lm.lm_head(alone(lm, batch, prompt)))


def test_padding_changes_nothing(tiny_llama):
    """An example's states do not depend on how long the others are."""
    backbone = wrap(AutoModelForCausalLM.from_pretrained(tiny_llama), "padded")
    prompt = prompt_of(64)
    short = collate([Encoded("a", (5, 6, 7), 0)])
    padded = collate([Encoded("a", (5, 6, 7), 0), Encoded("b", tuple(range(3, 13)), 0)])
    close(backbone(padded, prompt, reads="states")[:1], backbone(short, prompt, reads="states"))


@LAYOUTS
def test_peft_prompt_tuning_gives_the_same_logits(tiny_llama, layout):
    peft = pytest.importorskip("peft")
    prompt = prompt_of(64, offsets=False)
    theirs = AutoModelForCausalLM.from_pretrained(tiny_llama)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=M)
    model = peft.get_peft_model(theirs, config)
    model.prompt_encoder["default"].embedding.weight.data.copy_(prompt.prefix)
    batch = batch_of(theirs.config.vocab_size)
    backbone = wrap(AutoModelForCausalLM.from_pretrained(tiny_llama), layout)
    ours = backbone(batch, prompt, reads="logits")
    for row, tokens in zip(ours, batch.tokens.split(batch.lengths.tolist()), strict=True):
        out = model(input_ids=tokens[None], attention_mask=torch.ones_like(tokens[None]))
        close(row, out.logits[0, -1])


@LAYOUTS
def test_zero_offsets_without_prefix_are_the_frozen_model(tiny_llama, layout):
    lm = AutoModelForCausalLM.from_pretrained(tiny_llama)
    batch = batch_of(lm.config.vocab_size)
    logits = wrap(lm, layout)(batch, Composed(None, torch.zeros(L, 64)), reads="logits")
    for row, tokens in zip(logits, batch.tokens.split(batch.lengths.tolist()), strict=True):
        close(row, lm(input_ids=tokens[None]).logits[0, -1])


# --- loading ----------------------------------------------------------------------------


def load(folder: Path, *, dtype="fp32", layout="padded") -> CausalBackbone:
    return load_whole(info_of(folder), dtype=dtype, layout=layout, device=CPU)


def test_loaded_weights_are_frozen_and_in_their_dtype(tiny_llama):
    backbone = load(tiny_llama, dtype="bf16")
    parameters = list(backbone.module.parameters())
    assert {p.dtype for p in parameters} == {torch.bfloat16}
    assert not any(p.requires_grad for p in parameters)
    assert not backbone.module.training
    # A cast of the whole module would round the rotary frequencies too.
    frequencies = backbone.module.lm.model.rotary_emb.inv_freq
    want = 10000 ** (-torch.arange(0, 16, 2) / 16)
    torch.testing.assert_close(frequencies, want)


def test_embeddings_are_the_models(tiny_llama):
    lm = AutoModelForCausalLM.from_pretrained(tiny_llama)
    ids = torch.tensor([3, 1, 3, 77])
    assert torch.equal(load(tiny_llama).embed(ids), lm.model.embed_tokens.weight[ids])


def save(folder: Path, tiny_llama: Path, family: str, **changes) -> ModelInfo:
    return info_of(save_family(folder, tiny_llama, family, **changes))


def test_packed_needs_a_window_that_sees_everything(tmp_path, tiny_llama):
    info = save(tmp_path, tiny_llama, family="mistral", sliding_window=16)
    with pytest.raises(RecipeError, match=r"model\.layout: got 'packed'.*window \(16\).*\(17\)"):
        choose_layout(info, asked="packed", longest=17)
    with pytest.raises(RecipeError, match=r"model\.layout: not given, which means packed; the"):
        choose_layout(info, asked=None, longest=17)
    assert choose_layout(info, asked="packed", longest=16) == "packed"
    assert choose_layout(info, asked="packed_flex", longest=16, device="cuda") == "packed_flex"
    with pytest.raises(RecipeError, match=r"got 'packed_flex'; .*type cpu; allowed: packed"):
        choose_layout(info, asked="packed_flex", longest=16)
    assert choose_layout(info, asked=None, longest=16) == "packed"
    assert choose_layout(info, asked="padded", longest=17) == "padded"


def test_a_short_window_is_the_models_own_when_padded(tmp_path, tiny_llama):
    info = save(tmp_path, tiny_llama, family="mistral", sliding_window=4)
    agree(AutoModelForCausalLM.from_pretrained(info.folder), "padded", prompt_of(32))


def test_packed_is_refused_where_it_was_not_tested(tmp_path, tiny_llama):
    """Bloom adds its positions to the mask: it would take a packed row for one long text."""
    info = save(tmp_path, tiny_llama, family="bloom")
    with pytest.raises(
        RecipeError, match=r"model\.layout: got 'packed'; allowed for bloom: padded"
    ):
        choose_layout(info, asked="packed", longest=16)
    agree(AutoModelForCausalLM.from_pretrained(info.folder), "padded", prompt_of(32))


def test_t5_is_never_packed(tiny_t5):
    """Its encoder looks both ways: the prompt would see the examples."""
    with pytest.raises(RecipeError, match=r"got 'packed'; allowed for t5: padded"):
        choose_layout(info_of(tiny_t5), asked="packed", longest=16)
    backbone = load(tiny_t5, dtype="bf16")
    assert type(backbone).__name__ == "Seq2SeqBackbone"
    # transformers keeps T5's `wo` in fp32 beside fp16 only.
    assert {p.dtype for p in backbone.module.parameters()} == {torch.bfloat16}


def test_a_checkpoint_that_lacks_a_weight_is_refused(tmp_path, tiny_llama):
    lm = AutoModelForCausalLM.from_pretrained(tiny_llama)
    weights = lm.state_dict()
    del weights["model.layers.1.mlp.up_proj.weight"]
    lm.save_pretrained(tmp_path, state_dict=weights)
    info = dataclasses.replace(info_of(tiny_llama), folder=tmp_path)
    with pytest.raises(RecipeError, match=r"model: .* lacks 1 weights.*layers\.1\.mlp\.up_proj"):
        load_whole(info, dtype="fp32", layout="padded", device=CPU)
