"""FSDP2 on two and three CPU processes against one process."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from support.parity import assert_close_prompts, assert_parity
from support.runs import (
    ENVIRONMENT,
    finish,
    kill,
    launch_command,
    metrics,
    start,
    start_ranks,
    wait_for_step,
    write_recipe,
)
from support.tiny_models import write_t5
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

TRAIN = {"steps": 20, "eval_every": 5, "save_every": 2, "warmup_steps": 3}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, tiny_llama) -> Path:
    return write_recipe(tmp_path_factory.mktemp("fsdp2"), tiny_llama, **TRAIN)


@pytest.fixture(scope="module")
def one_process(recipe) -> Path:
    assert finish(start(recipe, "name=one")) == [0]
    return recipe.parent / "runs" / "one"


def test_accelerate_launch_equals_one_process(recipe, one_process):
    """A batch of 5 on 2 ranks, in micro-batches of 2: no rank has what another has."""
    command = launch_command(recipe, "name=launched", "train.micro_batch_size=2")
    subprocess.run(command, env=ENVIRONMENT, check=True, timeout=180, capture_output=True)
    assert_parity(recipe.parent / "runs" / "launched", one_process, ranks=2)


def test_three_ranks_equal_one_process(recipe, one_process):
    """64 columns, 5 rows a batch and 11 test rows: 3 divides none of them."""
    assert finish(*start_ranks(recipe, "name=three", "model.layout=padded", count=3)) == [0] * 3
    assert_parity(recipe.parent / "runs" / "three", one_process, ranks=3)


def test_more_ranks_than_rows_in_a_batch(recipe):
    change = ("train.batch_size=1", "model.dtype=fp32")
    assert finish(start(recipe, "name=single_row", *change)) == [0]
    assert finish(*start_ranks(recipe, "name=empty_rank", *change, count=2)) == [0, 0]
    folders = [recipe.parent / "runs" / name for name in ("empty_rank", "single_row")]
    assert_parity(*folders, ranks=2)


def with_tokenizer(folder: Path, tiny_llama: Path) -> Path:
    for file in tiny_llama.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture
def tied(tmp_path, tiny_llama) -> Path:
    """The LM head is the embedding, stored once, in many small files."""
    folder = tmp_path / "tied"
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(tiny_llama, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder, max_shard_size="40KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert "lm_head.weight" not in index["weight_map"]
    assert len(list(folder.glob("*.safetensors"))) > 3
    return with_tokenizer(folder, tiny_llama)


@pytest.fixture
def tied_in_name(tmp_path, tiny_llama) -> Path:
    """The config says tied, but the files have another LM head: transformers then uses that."""
    folder = shutil.copytree(tiny_llama, tmp_path / "tied_in_name")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    return folder


@pytest.mark.parametrize("model", ["tied", "tied_in_name"])
def test_the_lm_head_of_tied_embeddings(request, tmp_path, model):
    """Label words read the LM head."""
    path = write_recipe(tmp_path, request.getfixturevalue(model), **TRAIN)
    change = ("head.kind=label_words",)
    assert finish(start(path, "name=one", *change)) == [0]
    assert finish(*start_ranks(path, "name=two", *change, count=2)) == [0, 0]
    assert_parity(tmp_path / "runs" / "two", tmp_path / "runs" / "one", ranks=2)


def test_a_missing_weight_is_refused(tmp_path, tiny_llama):
    model = tmp_path / "model"
    lm = AutoModelForCausalLM.from_pretrained(tiny_llama)
    weights = lm.state_dict()
    del weights["model.layers.1.mlp.up_proj.weight"]
    lm.save_pretrained(model, state_dict=weights)
    path = write_recipe(tmp_path, with_tokenizer(model, tiny_llama), **TRAIN)
    assert finish(*start_ranks(path, count=2)) == [2, 2]
    said = Path(f"{path}.err").read_text()
    assert "lacks 1 weights of LlamaForCausalLM (model.layers.1.mlp.up_proj.weight" in said
    assert said.count("error:") == 1
    assert not (tmp_path / "runs").exists()


def test_kill_9_of_all_ranks_then_resume(recipe, one_process):
    assert finish(*start_ranks(recipe, "name=undisturbed", count=2)) == [0, 0]
    folder = recipe.parent / "runs" / "killed"
    for step in 4, 11:
        ranks = start_ranks(recipe, "name=killed", count=2, resume=folder.exists())
        assert wait_for_step(folder, step, *ranks)
        kill(*ranks)
    assert finish(*start_ranks(recipe, "name=killed", count=2, resume=True)) == [0, 0]
    assert [line["step"] for line in metrics(folder, of="loss")] == list(range(1, 21))
    assert_close_prompts(folder, folder.parent / "undisturbed", tolerance=1e-6)


def test_sigterm_of_one_rank_stops_both(recipe, one_process):
    folder = recipe.parent / "runs" / "one_signal"
    ranks = start_ranks(recipe, "name=one_signal", count=2)
    assert wait_for_step(folder, 3, *ranks)
    os.kill(ranks[1].pid, signal.SIGTERM)
    assert finish(*ranks) == [143, 143]
    assert not (folder / "result.json").exists()
    assert finish(*start_ranks(recipe, "name=one_signal", count=2, resume=True)) == [0, 0]
    assert_parity(folder, one_process, ranks=2)


def gather_in_a_step(path: str, out: str, weights: str, dtype: str, rank: dict) -> None:
    """One rank: how many bytes each all-gather of a forward and a backward pass brings."""
    os.environ |= rank
    from accept_llm.checks import prepare
    from accept_llm.data.batches import collate
    from accept_llm.engines.fsdp2 import Fsdp2Engine, OneBuffer
    from accept_llm.recipe.recipe import load_recipe
    from accept_llm.training.loading import load

    torch.set_num_threads(1)
    sizes: list[int] = []
    real = OneBuffer.__call__

    def counted(self, output_tensor, *args, **kwargs):
        sizes.append(output_tensor.numel() * output_tensor.element_size())
        return real(self, output_tensor, *args, **kwargs)

    OneBuffer.__call__ = counted
    changes = (f"model.quantization={weights}", f"model.dtype={dtype}")
    recipe, engine = load_recipe(Path(path), changes)[0], Fsdp2Engine()
    prepared = prepare(recipe, "fsdp2")
    loaded = load(prepared, engine)
    batch = collate(loaded.encode(prepared.rows.train[:4]))
    sizes.clear()
    prompt = loaded.model.method.compose()
    losses = loaded.model.head.losses(loaded.model.backbone, batch, prompt=prompt)
    forward = len(sizes)
    losses.sum().backward()
    if engine.rank == 0:
        Path(out).write_text(json.dumps([sizes[:forward], sizes[forward:]]))
    engine.close()


def gathered(recipe: Path, weights: str, dtype: str) -> tuple[list[int], list[int]]:
    out = recipe.parent / f"gathers_{weights}.json"
    arguments = (str(out), weights, dtype)
    ranks = start_ranks(recipe, count=2, target=gather_in_a_step, arguments=arguments)
    assert finish(*ranks) == [0, 0]
    return tuple(json.loads(out.read_text()))


def test_a_layer_is_gathered_once_forward_and_once_backward(recipe, tiny_llama):
    forward, backward = gathered(recipe, "null", "fp32")
    lm = AutoModelForCausalLM.from_pretrained(tiny_llama)
    layer = sum(p.nbytes for p in lm.model.layers[0].parameters())
    norm, embedding = lm.model.norm.weight.nbytes, lm.model.embed_tokens.weight.nbytes
    assert sorted(forward) == sorted([norm, embedding, layer, layer])
    assert sorted(backward) == sorted([norm, layer, layer])


def test_int8_moves_about_half_the_bytes_of_bf16(recipe):
    wide, narrow = (sum(map(sum, gathered(recipe, w, "bf16"))) for w in ("null", "int8"))
    assert narrow <= 0.55 * wide


def linear_bytes(path: str, out: str, rank: dict) -> None:
    """One rank: the memory that it holds for the int8 linear layers."""
    os.environ |= rank
    from accept_llm.backbones.int8 import Int8Linear
    from accept_llm.backbones.loading import local_shard
    from accept_llm.checks import prepare
    from accept_llm.engines.fsdp2 import Fsdp2Engine
    from accept_llm.recipe.recipe import load_recipe
    from accept_llm.training.loading import load

    recipe = load_recipe(Path(path), ("model.quantization=int8", "model.dtype=bf16"))[0]
    engine = Fsdp2Engine()
    loaded = load(prepare(recipe, "fsdp2"), engine)
    layers = [m for m in loaded.model.backbone.module.modules() if isinstance(m, Int8Linear)]
    sizes = [
        local_shard(p).untyped_storage().nbytes() for layer in layers for p in layer.parameters()
    ]
    Path(f"{out}.{engine.rank}").write_text(json.dumps([len(layers), sum(sizes)]))
    engine.close()


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_a_rank_holds_a_quarter_of_the_linear_layers_bf16_bytes(tmp_path, tiny_llama, kind):
    """Half of half, and scales; every width is a multiple of 64."""
    folder = tiny_llama if kind == "llama" else write_t5(tmp_path / "t5", d_ff=128)
    path, out = write_recipe(tmp_path, folder), tmp_path / "bytes"
    ranks = start_ranks(path, count=2, target=linear_bytes, arguments=(str(out),))
    assert finish(*ranks) == [0, 0]
    lm_class = AutoModelForCausalLM if kind == "llama" else AutoModelForSeq2SeqLM
    layers = [m for m in lm_class.from_pretrained(folder).modules() if isinstance(m, nn.Linear)]
    wide = sum(2 * parameter.numel() for layer in layers for parameter in layer.parameters())
    for rank in range(2):
        count, size = json.loads(Path(f"{out}.{rank}").read_text())
        assert count == len(layers)
        assert size <= 0.27 * wide


@pytest.mark.slow
def test_sigterm_to_accelerate_reaches_the_ranks(recipe):
    """accelerate itself dies of it at once; torchrun below it passes it on."""
    folder = recipe.parent / "runs" / "signalled"
    overrides = ("name=signalled", "train.steps=100000", "train.save_every=100000")
    with subprocess.Popen(launch_command(recipe, *overrides), env=ENVIRONMENT) as launcher:
        until = time.monotonic() + 120
        path = folder / "metrics.jsonl"
        while not (path.exists() and len(path.read_text()) > 500) and time.monotonic() < until:
            time.sleep(0.1)
        launcher.send_signal(signal.SIGTERM)
        launcher.wait(60)
    state = folder / "state" / "state.pt"
    until = time.monotonic() + 60
    while not state.exists() and time.monotonic() < until:
        time.sleep(0.1)
    step = torch.load(state)["step"]
    time.sleep(3)
    assert max(line["step"] for line in metrics(folder, of="loss")) == step, "ranks still train"
