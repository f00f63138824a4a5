"""LoRA against PEFT on the same numbers, and under every engine, format and layout against one
process."""

import json
from pathlib import Path

import pytest
import torch
from support.backbones import CPU, answered_batch, close, info_of
from support.parity import trained
from support.runs import losses, recipe_data, result
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

import accept_llm
from accept_llm.adapter.folder import load
from accept_llm.backbones.loading import load_whole
from accept_llm.engines.check import check_engine
from accept_llm.errors import RecipeError
from accept_llm.methods.base import Start
from accept_llm.methods.lora import LoraPairs
from accept_llm.methods.table import build_method
from accept_llm.models.sizes import read_sizes
from accept_llm.plan.plan import make_plan
from accept_llm.recipe.method import Lora
from accept_llm.recipe.recipe import dump_recipe, parse_recipe

peft = pytest.importorskip("peft")

CLASSES = {"tiny_llama": AutoModelForCausalLM, "tiny_t5": AutoModelForSeq2SeqLM}
TARGETS = {"tiny_llama": ["q_proj", "v_proj", "down_proj"], "tiny_t5": ["q", "v", "wo"]}
MODELS = pytest.mark.parametrize("model", CLASSES)


def filled(folder: Path, spec: Lora) -> LoraPairs:
    """Pairs whose B is not zero, so that they do something."""
    info = info_of(folder)
    shape = spec.shape(hidden=64, positions=24, model_type=info.model_type, linears=info.linears)
    start = Start(lambda ids: torch.zeros(0), 90, torch.Generator().manual_seed(1))
    method = build_method(spec, shape, start=start)
    assert isinstance(method, LoraPairs)
    for pair in method.pairs:
        assert torch.equal(pair.b, torch.zeros_like(pair.b))
        pair.b.data.normal_(0, 0.1, generator=start.generator)
    return method


def peft_states(folder: Path, model: str, ours: LoraPairs, spec: Lora) -> tuple[Tensor, list]:
    """The states of PEFT's model with our numbers, each example alone, and its A and B."""
    lm = CLASSES[model].from_pretrained(folder, dtype=torch.float32)
    config = peft.LoraConfig(
        r=spec.rank, lora_alpha=spec.alpha, target_modules=spec.target_modules, lora_dropout=0.0
    )
    wrapped = peft.get_peft_model(lm, config).eval()
    modules, pairs = dict(wrapped.base_model.model.named_modules()), []
    for name, pair in zip(ours.names, ours.pairs, strict=True):
        a, b = modules[name].lora_A["default"].weight, modules[name].lora_B["default"].weight
        a.data.copy_(pair.a)
        b.data.copy_(pair.b)
        pairs += [a, b]
    assert sum(p.requires_grad for p in wrapped.parameters()) == len(pairs)
    batch, states, inner = answered_batch(90), [], wrapped.base_model.model
    for tokens in batch.tokens.split(batch.lengths.tolist()):
        if model == "tiny_llama":
            states.append(inner.model(input_ids=tokens[None]).last_hidden_state[0, -1])
        else:
            encoded = inner.encoder(input_ids=tokens[None]).last_hidden_state
            start = torch.tensor([[inner.config.decoder_start_token_id]])
            out = inner.decoder(input_ids=start, encoder_hidden_states=encoded)
            states.append(out.last_hidden_state[0, 0])
    return torch.stack(states), pairs


@pytest.mark.parametrize("layout", ["padded", "packed"])
@MODELS
def test_states_and_gradients_are_peft_s(request, model, layout):
    if (model, layout) == ("tiny_t5", "packed"):
        pytest.skip("an encoder-decoder is padded")
    folder = request.getfixturevalue(model)
    spec = Lora(kind="lora", rank=3, alpha=7.0, target_modules=TARGETS[model])
    ours = filled(folder, spec)
    want, pairs = peft_states(folder, model, ours, spec)
    backbone = load_whole(info_of(folder), dtype="fp32", layout=layout, device=CPU)
    bare = backbone(answered_batch(90), ours.compose(), reads="states")
    ours.attach(backbone.module)
    got = backbone(answered_batch(90), ours.compose(), reads="states")
    assert (bare - got).abs().max() > 0.1
    close(got, want)
    weights = torch.linspace(-1, 1, want.numel()).view_as(want)
    grads = torch.autograd.grad((got * weights).sum(), list(ours.pairs.parameters()))
    wanted = torch.autograd.grad((want * weights).sum(), pairs)
    # As one vector: a decoder that reads one token has gradients of rounding size in its queries.
    mine, theirs = (torch.cat([x.flatten() for x in part]) for part in (grads, wanted))
    assert (mine - theirs).norm() <= 1e-5 * theirs.norm()


def test_a_layer_that_stores_its_weight_the_other_way(tmp_path):
    """GPT-2's Conv1D has (inputs, outputs)."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=90, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1,
        eos_token_id=2, initializer_range=0.15,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    spec = Lora(kind="lora", rank=2, alpha=4.0)
    ours = filled(tmp_path, spec)
    assert [tuple(pair.a.shape) + tuple(pair.b.shape) for pair in ours.pairs] == [
        (2, 32, 96, 2)
    ] * 2
    lm = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    theirs = peft.get_peft_model(
        GPT2LMHeadModel.from_pretrained(tmp_path),
        peft.LoraConfig(r=2, lora_alpha=4, target_modules=["c_attn"], fan_in_fan_out=True),
    ).eval()
    modules = dict(theirs.base_model.model.named_modules())
    for name, pair in zip(ours.names, ours.pairs, strict=True):
        layer = next(m for known, m in modules.items() if known.endswith(name))
        layer.lora_A["default"].weight.data.copy_(pair.a)
        layer.lora_B["default"].weight.data.copy_(pair.b)
    root = torch.nn.Module()
    root.lm = lm
    ours.attach(root)
    ids = torch.tensor([[5, 9, 3, 7]])
    close(lm(ids).logits, theirs(input_ids=ids).logits)


# --- sizes ------------------------------------------------------------------------------


@MODELS
def test_sizes_from_the_config_are_those_of_the_checkpoint(request, model):
    info = info_of(request.getfixturevalue(model))
    by_config = read_sizes(info.config).linear_layers(info.model_type)
    assert sorted(by_config, key=str) == sorted(info.linears, key=str)


def test_the_count_of_t5_base():
    """3,538,944 parameters: q and v of 36 attentions, r = 32."""
    config = {"model_type": "t5", "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_heads": 12}
    sizes = read_sizes(config | {"num_layers": 12, "vocab_size": 32128})
    spec = Lora(kind="lora", rank=32)
    shape = spec.shape(model_type="t5", linears=sizes.linear_layers("t5"))
    assert shape.parameters == 3_538_944
    assert len(shape.layers) == 72


def test_targets_may_be_longer_names(tiny_t5):
    info = info_of(tiny_t5)
    spec = Lora(kind="lora", target_modules=["EncDecAttention.v"])
    shape = spec.shape(model_type="t5", linears=info.linears)
    assert [x.name for x in shape.layers] == [
        f"decoder.block.{i}.layer.1.EncDecAttention.v" for i in range(2)
    ]


# --- whole runs -------------------------------------------------------------------------


@pytest.fixture(scope="module", params=CLASSES)
def recipe(request, tmp_path_factory) -> Path:
    """LoRA on 24 rows in batches of 5, and each rank's part in micro-batches of 2."""
    model = request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    train = {"steps": 20, "eval_every": 5, "warmup_steps": 3, "micro_batch_size": 2, "lr": 3e-3}
    data = recipe_data(folder, model, **train)
    data["method"] = {"kind": "lora", "rank": 4, "alpha": 8}
    if request.param == "tiny_t5":
        data["head"] = {"kind": "choice", "words": {"bad": "no", "good": "yes kettle"}}
    path = folder / "recipe_in.yaml"
    path.write_text(dump_recipe(parse_recipe(data)))
    return path


def assert_equal_runs(folder: Path, other: Path) -> None:
    """Losses and scores to 1e-5 relative. Parameters are not compared: T5 has gradients of
    rounding size, which AdamW makes as large as any."""
    assert len(losses(folder)) == 20
    assert losses(folder) == pytest.approx(losses(other), rel=1e-5)
    for split in "validation", "test":
        assert result(folder)[split] == pytest.approx(result(other)[split], rel=1e-5)


INT8 = "model.quantization=int8"


@pytest.mark.parametrize("kind", ["ddp", "fsdp2", "zero3"])
def test_engines_equal_one_process(recipe, kind):
    if kind == "zero3":
        pytest.importorskip("deepspeed")
    assert_equal_runs(trained(recipe, kind), trained(recipe, "single"))


@pytest.mark.parametrize("change", ["model.checkpointing=true", "model.layout=padded"])
@pytest.mark.parametrize("kind", ["single", "fsdp2"])
def test_layouts_and_checkpointing_change_nothing(recipe, kind, change):
    assert_equal_runs(trained(recipe, kind, change), trained(recipe, "single"))


def test_int8_in_shards_equals_one_process(recipe):
    assert_equal_runs(trained(recipe, "fsdp2", INT8), trained(recipe, "single", INT8))


def test_compiled_blocks_change_nothing(recipe):
    assert_equal_runs(trained(recipe, "single", "model.compile=true"), trained(recipe, "single"))


@pytest.mark.parametrize("quantization", ["bnb-int8", "bnb-nf4"])
def test_it_trains_on_bitsandbytes_weights(recipe, quantization):
    pytest.importorskip("bitsandbytes")
    folder = trained(recipe, "single", f"model.quantization={quantization}", "train.lr=0.01")
    assert sum(losses(folder)[-5:]) < sum(losses(folder)[:5])


def test_it_learns_and_only_it(recipe):
    folder = trained(recipe, "single", "train.lr=0.01")
    assert sum(losses(folder)[-5:]) < 0.9 * sum(losses(folder)[:5])
    trainable = result(folder)["trainable"]
    assert trainable["lora"] == load(folder / "prompt").method.shape.parameters
    assert trainable["lora"] + trainable["head"] == trainable["total"]


@pytest.mark.parametrize(("kind", "change"), [("single", INT8), ("fsdp2", INT8), ("fsdp2", None)])
def test_the_reloaded_adapter_has_the_scores_of_its_run(recipe, kind, change):
    folder = trained(recipe, kind, *([change] if change else []))
    assert accept_llm.evaluate(folder) == pytest.approx(result(folder)["test"], rel=1e-5)


def test_evaluate_predict_and_plan(recipe):
    folder = trained(recipe, "single")
    assert accept_llm.evaluate(folder) == pytest.approx(result(folder)["test"], rel=1e-6)
    answers = accept_llm.predict(folder, ["lovely warm lamp", {"review": "cold soup"}])
    assert [set(answer) for answer in answers] == [{"id", "label", "probabilities"}] * 2
    planned = make_plan(recipe_of_run(folder))
    assert planned.work.trained == result(folder)["trainable"]["total"]
    card = json.loads((folder / "prompt/prompt.json").read_text())
    assert (card["method"]["kind"], card["method"]["rank"]) == ("lora", 4)


def test_a_plan_by_the_config_alone(tmp_path, tiny_llama):
    """The layers of a family whose names are known, and a refusal for the others."""
    data = recipe_data(tmp_path, tmp_path)
    data["method"], data["train"]["lr"] = {"kind": "lora", "rank": 4}, 1e-3
    config = json.loads((tiny_llama / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    trained = make_plan(parse_recipe(data)).work.trained
    layers = 2 * 4 * ((64 + 64) + (64 + 32))  # of two blocks: q and v, which has half the heads
    assert trained == layers + 2 * 64
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "opt"}))
    with pytest.raises(RecipeError, match=r"got .lora., which is inside .*allowed for .opt."):
        make_plan(parse_recipe(data))


def recipe_of_run(folder: Path):
    from accept_llm.runs.folder import read_run

    return read_run(folder)[0]


# --- refusals ---------------------------------------------------------------------------


def test_a_swarm_refuses_it_by_name(tmp_path, tiny_llama):
    data = recipe_data(tmp_path, tiny_llama)
    data |= {"method": {"kind": "lora"}, "engine": {"kind": "petals"}}
    data["train"]["lr"] = 1e-3
    with pytest.raises(RecipeError) as caught:
        check_engine(parse_recipe(data), "petals")
    line = next(line for line in caught.value.problems if line.startswith("method.kind"))
    assert "got 'lora', which is inside the model's layers; allowed under petals: accept" in line


def test_layers_that_the_model_has_not(tmp_path, tiny_llama):
    data = recipe_data(tmp_path, tiny_llama)
    data["method"] = {"kind": "lora", "target_modules": ["q_proj", "query"]}
    data["train"]["lr"] = 1e-3
    with pytest.raises(RecipeError) as caught:
        accept_llm.train(parse_recipe(data))
    assert caught.value.problems == [
        "method.target_modules: got query, which no linear layer of this model is named; allowed: "
        "down_proj, gate_proj, up_proj, k_proj, o_proj, q_proj, v_proj"
    ]
    assert not (tmp_path / "runs").exists()
