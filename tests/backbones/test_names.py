"""Whole and sliced loading are one program: every family, under the names that it is stored by, on
every engine, against from_pretrained."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.backbones import CPU, answered_batch, info_of
from support.families import FAMILIES, NOT_INT8, model_of, page, save_family
from support.runs import FORKSERVER, ROOT, finish, free_port, recipe_data
from torch import Tensor

from accept_llm.backbones.loading import UNSHARDED, load_sharded, load_whole
from accept_llm.checks import prepare
from accept_llm.engines.base import open_engine
from accept_llm.errors import RecipeError
from accept_llm.methods.base import Composed
from accept_llm.models.families import PADDED
from accept_llm.recipe.model import FolderModel
from accept_llm.recipe.recipe import parse_recipe
from accept_llm.training.loading import load

NAMES = ("saved", "bare", "own")
"""As save_pretrained writes them; without the prefix of the base model, as GPT-2 lies on the Hub;
as the module has them."""
CASES = [(family, names) for family in PADDED for names in NAMES]
EVERY = pytest.mark.parametrize(("family", "names"), CASES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_llama) -> dict[str, Path]:
    base, made = tmp_path_factory.mktemp("families"), {}
    for family, names in CASES:
        folder = base / f"{family}-{names}"
        made[folder.name] = save_family(folder, tiny_llama, family)
        if names == "saved":
            continue
        lm = model_of(family)
        prefix = f"{lm.base_model_prefix}." if names == "bare" else ""
        tensors = {k.removeprefix(prefix): v.clone() for k, v in lm.state_dict().items()}
        tied = set(lm.all_tied_weights_keys)
        kept = {k: v.contiguous() for k, v in tensors.items() if k not in tied}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return made


def whole(folder: Path, dtype: str = "fp32"):
    return load_whole(info_of(folder), dtype=dtype, layout="padded", device=CPU)


def sliced(folder: Path, quantization=None):
    how = {"dtype": "fp32", "layout": "padded", "device": CPU, "quantization": quantization}
    return load_sharded(info_of(folder), **how, sharding=UNSHARDED)


def logits(backbone) -> Tensor:
    return backbone(answered_batch(90), Composed(None, None), reads="logits").detach().float()


@EVERY
def test_sliced_weights_are_from_pretraineds(folders, family, names):
    folder = folders[f"{family}-{names}"]
    got, want = (x.module.lm.state_dict() for x in (sliced(folder), whole(folder)))
    assert got.keys() == want.keys()
    drawn = model_of(family).state_dict()
    for name, weight in want.items():
        assert torch.equal(weight, drawn[name]), name
        assert torch.equal(got[name], weight), name


@EVERY
def test_int8_is_near_or_refused_by_name(folders, family, names):
    folder = folders[f"{family}-{names}"]
    if family in NOT_INT8:
        with pytest.raises(RecipeError, match=r"got 'int8'; \w+ has .*; int8 needs linear layers"):
            sliced(folder, "int8")
        return
    got, want = logits(sliced(folder, "int8")), logits(whole(folder))
    assert 0 < (got - want).norm() < 0.2 * want.norm()


def test_a_lora_in_the_folder_is_left_out(tmp_path, tiny_llama):
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(target_modules=["q_proj"], r=4, init_lora_weights=False)
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    peft.get_peft_model(whole(folder).module.lm, lora).save_pretrained(folder)
    assert (folder / "adapter_config.json").is_file()
    want = whole(tiny_llama)
    for got in whole(folder), sliced(folder):
        for name, weight in want.module.lm.state_dict().items():
            assert torch.equal(got.module.lm.state_dict()[name], weight), name
    said = []
    data = recipe_data(tmp_path, folder)
    load(prepare(parse_recipe(data), "single"), open_engine("single"), notify=said.append)
    assert f"note: model: {folder} has an adapter too; the base model alone is used" in said


# --- one tensor a weight, of floats ------------------------------------------------------


def rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


TWICE = {
    "llama": "layers.0.self_attn.q_proj.weight",
    "gpt2": "h.1.attn.c_attn.weight",
    "mixtral": "layers.0.block_sparse_moe.experts.0.w1.weight",
}


@pytest.mark.parametrize("family", TWICE)
@pytest.mark.parametrize("load_it", [whole, sliced])
def test_two_tensors_of_one_weight_are_refused(tmp_path, tiny_llama, family, load_it):
    """One name with the prefix of the base model, and one without it: each loader took another."""
    folder, short = save_family(tmp_path, tiny_llama, family), TWICE[family]
    long = f"{model_of(family).base_model_prefix}.{short}"
    rewrite(folder, lambda tensors: tensors.update({short: tensors[long] + 1}))
    said = rf"two tensors for one weight, .*: .*{short} and .*{short}; allowed: one of them"
    with pytest.raises(RecipeError, match=said):
        load_it(folder)


@pytest.mark.parametrize("load_it", [whole, sliced])
def test_the_same_tensor_twice_is_one(tmp_path, tiny_llama, load_it):
    folder, name = save_family(tmp_path, tiny_llama, "llama"), TWICE["llama"]
    want = logits(whole(folder))
    rewrite(folder, lambda tensors: tensors.update({name: tensors[f"model.{name}"].clone()}))
    assert torch.equal(logits(load_it(folder)), want)


@pytest.mark.parametrize("load_it", [whole, sliced])
def test_biases_of_whole_numbers_are_refused(tmp_path, tiny_llama, load_it):
    """By what the model makes of the name: GPT-2's `attn.bias` is a mask, and this one is none."""
    folder, name = save_family(tmp_path, tiny_llama, "gpt2"), "transformer.h.0.attn.c_attn.bias"
    rewrite(folder, lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}))
    with pytest.raises(RecipeError, match=rf"{name} has dtype I8; allowed: F32, F16, BF16, F64"):
        load_it(folder)


# --- in shards --------------------------------------------------------------------------


def load_on_a_rank(kind: str, quantization, folders: list[Path], out: Path, own: dict) -> None:
    """A process of two; saves what each model says."""
    torch.set_num_threads(1)
    os.environ |= own
    from accept_llm.engines.base import open_engine

    engine = open_engine(kind)
    dtype = "bf16" if kind == "zero3" else "fp32"
    found = {}
    for folder in folders:
        if quantization == "int8" and folder.name.startswith(NOT_INT8):
            continue
        more = {"dtype": dtype, "quantization": quantization}
        spec = FolderModel(kind="folder", path=str(folder), **more)
        backbone = engine.load_backbone(spec, info_of(folder), layout="padded")
        found[folder.name] = logits(backbone)
    torch.save(found, out / f"{engine.rank}.pt")
    engine.close()


@pytest.fixture(scope="module", params=[("fsdp2", None), ("fsdp2", "int8"), ("zero3", None)])
def shards(request, folders, tmp_path_factory) -> tuple[str, list[dict[str, Tensor]]]:
    kind, quantization = request.param
    out = tmp_path_factory.mktemp(kind)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = []
    for rank in range(2):
        own = address | {"RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"}
        args = (kind, quantization, list(folders.values()), out, own)
        ranks.append(FORKSERVER.Process(target=load_on_a_rank, args=args))
        ranks[-1].start()
    assert finish(*ranks) == [0, 0]
    return f"{kind} {quantization}", [torch.load(out / f"{rank}.pt") for rank in range(2)]


@EVERY
def test_shards_say_what_the_whole_says(folders, shards, family, names):
    engine, ranks = shards
    folder = folders[f"{family}-{names}"]
    if engine == "fsdp2 int8" and family in NOT_INT8:
        return
    if engine == "zero3 None":
        want, near = logits(whole(folder, "bf16")), 0.05
    elif engine == "fsdp2 int8":
        want, near = logits(sliced(folder, "int8")), 1e-4
    else:
        want, near = logits(whole(folder)), 1e-5
    for got in ranks:
        assert (got[folder.name] - want).norm() <= near * want.norm()


def test_every_family_is_here_and_in_the_docs():
    assert {family for family, _ in CASES} == set(FAMILIES)
    assert (ROOT / "docs/families.md").read_text() == page()
