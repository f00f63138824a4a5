"""FSDP2's options: groups that each hold a copy, host memory, the type that is computed; each
against one process."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from support.backbones import CPU, info_of
from support.parity import assert_same_training, trained
from support.runs import finish, losses, result, start, start_ranks, write_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

from accept_llm.backbones.int8 import dequantise
from accept_llm.backbones.loading import load_whole
from accept_llm.engines.fsdp2 import Fsdp2Engine, mesh_shape
from accept_llm.errors import RecipeError
from accept_llm.recipe.engine import Fsdp2Engine as Fsdp2Spec
from accept_llm.recipe.recipe import load_recipe

# Batches of 5, in micro-batches of 2: on four ranks some have a row more than others, or none.
TRAIN = {"steps": 20, "eval_every": 5, "warmup_steps": 3, "micro_batch_size": 2}
FSDP2 = "engine.kind=fsdp2"


@pytest.fixture(scope="module", params=["llama", "t5"])
def recipe(request, tmp_path_factory, tiny_llama, tiny_t5) -> Path:
    model = {"llama": tiny_llama, "t5": tiny_t5}[request.param]
    return write_recipe(tmp_path_factory.mktemp(request.param), model, **TRAIN)


LLAMA = pytest.mark.parametrize("recipe", ["llama"], indirect=True)


@pytest.mark.parametrize("weights", ["null", "int8"])
def test_two_groups_of_two_equal_one_process(recipe, weights):
    """Four ranks compute a quarter of a batch each and hold half the weights each."""
    change = f"model.quantization={weights}"
    folder = trained(recipe, "fsdp2", change, FSDP2, "engine.shard_size=2", count=4)
    one = trained(recipe, "single", change)
    assert_same_training(folder, one, rel=1e-4)
    (whole,), held = (result(f)["frozen_bytes_per_rank"] for f in (one, folder))
    assert held == pytest.approx([whole / 2] * 4, rel=0.05)  # some widths are not even
    assert held[:2] == held[2:]
    assert sum(held) == 2 * whole


def test_the_mesh():
    assert mesh_shape(None, 6) == mesh_shape(6, 6) == (6,)
    assert mesh_shape(2, 6) == (3, 2)
    assert mesh_shape(1, 6) == (6, 1)
    said = r"engine.shard_size: got 4; allowed with 6 ranks: 1, 2, 3, 6$"
    with pytest.raises(RecipeError, match=said):
        mesh_shape(4, 6)


def test_a_wrong_shard_size_is_refused_before_there_is_a_group(monkeypatch):
    """A rank that leaves the group while another still joins it would end that one otherwise."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(RecipeError, match=r"engine\.shard_size: got 3; allowed with 2 ranks: 1, 2"):
        Fsdp2Engine(Fsdp2Spec(kind="fsdp2", shard_size=3))
    assert not dist.is_initialized()


@LLAMA
def test_a_shard_size_that_does_not_divide_the_ranks_is_refused(recipe):
    before = set((recipe.parent / "runs").glob("*"))
    changes = ("name=refused", FSDP2, "engine.shard_size=3")
    assert finish(*start_ranks(recipe, *changes, count=2)) == [2, 2]
    said = Path(f"{recipe}.err").read_text()
    assert said.count("engine.shard_size: got 3; allowed with 2 ranks: 1, 2") == 1
    assert set((recipe.parent / "runs").glob("*")) == before


@LLAMA
def test_offload_changes_no_number_on_the_cpu(recipe):
    folders = [
        trained(recipe, "fsdp2", FSDP2, f"engine.offload={on}", "engine.shard_size=1")
        for on in ("true", "false")
    ]
    assert losses(folders[0]) == losses(folders[1])
    assert_same_training(folders[0], trained(recipe, "single"), rel=1e-4)


@pytest.fixture(scope="module")
def bf16_recipe(tmp_path_factory, tiny_llama) -> Path:
    """Of a checkpoint whose numbers are bf16, so that holding it in bf16 loses nothing."""
    folder = tmp_path_factory.mktemp("bf16")
    lm = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.bfloat16)
    lm.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder / "model")
    return write_recipe(folder, folder / "model", **TRAIN)


def test_held_in_bf16_and_computed_in_fp32(bf16_recipe):
    """As one process does that holds fp32, in a quarter of its bytes on two ranks."""
    changes = ("model.dtype=bf16", FSDP2, "engine.param_dtype=fp32")
    folder = trained(bf16_recipe, "fsdp2", *changes)
    one = trained(bf16_recipe, "single", "model.dtype=fp32")
    assert_same_training(folder, one, rel=1e-4)
    (whole,), held = (result(f)["frozen_bytes_per_rank"] for f in (one, folder))
    assert held == pytest.approx([whole / 4] * 2, rel=0.01)


def dequantised_model(folder: Path, model: Path) -> Path:
    """The checkpoint that int8 with bf16 scales stands for, in fp32."""
    small = load_whole(
        info_of(model), dtype="bf16", layout="padded", device=CPU, quantization="int8"
    )
    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    weights = lm.state_dict()
    for name, module in small.module.lm.named_modules():
        if hasattr(module, "scale"):
            wide = dequantise(module.weight, module.scale, dtype=torch.float32)
            weights[f"{name}.weight"] = wide
    lm.save_pretrained(folder, state_dict=weights)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


def test_held_in_int8_and_computed_in_fp32(bf16_recipe):
    """int8 stays int8 on the way; its scales are held in bf16."""
    changes = ("model.quantization=int8", "model.dtype=bf16", FSDP2, "engine.param_dtype=fp32")
    folder = trained(bf16_recipe, "fsdp2", *changes)
    model = dequantised_model(bf16_recipe.parent / "wide", bf16_recipe.parent / "model")
    assert finish(start(bf16_recipe, "name=wide", f"model.path={model}")) == [0]
    one = bf16_recipe.parent / "runs" / "wide"
    assert_same_training(folder, one, rel=1e-4)
    (whole,), held = (result(f)["frozen_bytes_per_rank"] for f in (one, folder))
    assert max(held) < 0.31 * whole / 2


def test_narrower_than_held_is_refused(bf16_recipe):
    with pytest.raises(RecipeError) as caught:
        load_recipe(bf16_recipe, [FSDP2, "engine.param_dtype=bf16"])
    said = "engine.param_dtype: got 'bf16'; allowed: fp32, or nothing (computed in bf16: "
    assert said + "model.dtype=bf16, the same numbers)" in str(caught.value)
