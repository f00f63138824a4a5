"""Finding and checking models: every refusal with its text, without torch and network."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from accept_llm.errors import RecipeError
from accept_llm.models.find import fetch_model, inspect_model
from accept_llm.models.folder import fingerprint, weight_files
from accept_llm.recipe.model import FolderModel, HubModel

CONFIG = {
    "model_type": "llama",
    "hidden_size": 8,
    "max_position_embeddings": 32,
    "vocab_size": 16,
    "num_hidden_layers": 1,
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ACCEPT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("ACCEPT_MODEL_DIR", raising=False)


def embedding(rows=16, width=8):
    return {"model.embed_tokens.weight": np.zeros((rows, width), np.float32)}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A tiny model folder without fault."""
    path = tmp_path / "tiny"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "tokenizer.json").write_text("{}")
    save_file(embedding(), path / "model.safetensors")
    return path


def look(path):
    return inspect_model(FolderModel(kind="folder", path=str(path)))


def problems(spec) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        inspect_model(spec)
    return caught.value.problems


def folder_problems(path) -> list[str]:
    return problems(FolderModel(kind="folder", path=str(path)))


def configure(folder, **changes):
    config = {k: v for k, v in (CONFIG | changes).items() if v is not None}
    (folder / "config.json").write_text(json.dumps(config))


# --- folders ----------------------------------------------------------------------------


def test_a_good_folder(folder):
    info = look(folder)
    assert (info.model_type, info.hidden_size, info.max_positions) == ("llama", 8, 32)
    assert (info.vocab_size, info.layers) == (16, 1)
    assert info.files == (folder / "model.safetensors",)


def test_other_names_of_the_sizes(folder):
    config = {"model_type": "gpt2", "n_embd": 8, "n_positions": 64, "n_layer": 2, "vocab_size": 16}
    (folder / "config.json").write_text(json.dumps(config))
    info = look(folder)
    assert (info.hidden_size, info.max_positions, info.layers) == (8, 64, 2)


def test_nested_text_config(folder):
    nested = {k: CONFIG[k] for k in ("hidden_size", "vocab_size", "num_hidden_layers")}
    (folder / "config.json").write_text(json.dumps({"model_type": "x", "text_config": nested}))
    info = look(folder)
    assert (info.model_type, info.hidden_size, info.max_positions) == ("x", 8, None)


def test_no_such_folder(folder):
    missing = folder.parent / "tinny"
    assert folder_problems(missing) == [
        f"model.path: {missing} does not exist, did you mean 'tiny'?"
    ]
    file = folder / "config.json"
    assert folder_problems(file)[0] == f"model.path: {file} is a file; allowed: a folder"


def test_everything_missing_is_said_at_once(tmp_path):
    assert folder_problems(tmp_path) == [
        f"model.path: {tmp_path} {said}"
        for said in (
            "has no config.json; allowed: a folder as save_pretrained writes it",
            "has no tokenizer; needed: one of tokenizer.json, tokenizer.model, spiece.model, "
            "vocab.json",
            "has no weights; needed: model.safetensors, or several files with "
            "model.safetensors.index.json",
        )
    ]


def test_an_adapter_is_no_model(folder):
    (folder / "config.json").rename(folder / "adapter_config.json")
    assert folder_problems(folder) == [
        f"model.path: {folder} has no config.json; an adapter is there; needed: its base model"
    ]


@pytest.mark.parametrize("text", ["{", "[1]", "\x00\xff"])
def test_config_is_not_json(folder, text):
    (folder / "config.json").write_text(text)
    (line,) = folder_problems(folder)
    assert line.startswith(f"model.path: {folder / 'config.json'} ")
    assert "is not JSON" in line or "holds list; allowed: a JSON object" in line


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"model_type": "mt5"},
            "model_type: got 'mt5', an encoder-decoder; a causal LM or T5 is needed",
        ),
        ({"model_type": "bert"}, "model_type: got 'bert', an encoder; a causal LM or T5 is needed"),
        (
            {"model_type": "new", "is_encoder_decoder": True},
            "model_type: got 'new', an encoder-decoder; a causal LM or T5 is needed",
        ),
        (
            {"quantization_config": {"quant_method": "gptq"}},
            "quantization_config: the weights are quantised; allowed: plain bf16, fp16 or fp32 "
            "weights",
        ),
        (
            {"model_type": "gemma3_text", "use_bidirectional_attention": True},
            "use_bidirectional_attention: got True; allowed: false; a causal LM or T5 is needed",
        ),
        (
            {"model_type": "gemma4", "use_bidirectional_attention": "all"},
            "use_bidirectional_attention: got 'all'; allowed: false; a causal LM or T5 is needed",
        ),
        (
            {"is_causal": False},
            "is_causal: got False; allowed: true; a causal LM or T5 is needed",
        ),
    ],
)
def test_models_of_another_kind(folder, changes, said):
    configure(folder, **changes)
    assert folder_problems(folder) == [f"model.path: {folder / 'config.json'}: {said}"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"model_type": None},
            "has no model_type; a causal LM's is needed, such as 'llama', or t5",
        ),
        ({"hidden_size": 0}, "has no whole number above 0 for hidden_size or n_embd or d_model"),
        ({"vocab_size": "many"}, "has no whole number above 0 for vocab_size"),
    ],
)
def test_config_without_a_size(folder, changes, said):
    configure(folder, **changes)
    assert folder_problems(folder) == [f"model.path: {folder / 'config.json'} {said}"]


def test_only_pytorch_weights(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert folder_problems(folder) == [
        f"model.path: {folder} has weights only as pytorch_model.bin; needed: safetensors (load it "
        "with transformers and save_pretrained once)"
    ]


def test_weights_under_another_name(folder):
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    assert folder_problems(folder) == [
        f"model.path: {folder} has weights.safetensors but neither model.safetensors nor "
        "model.safetensors.index.json; needed: one"
    ]


def test_index_and_files(folder):
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"x": "a.safetensors"}}))
    assert look(folder).files == (folder / "a.safetensors",)
    both = {"x": "a.safetensors", "y": "b.safetensors"}
    index.write_text(json.dumps({"metadata": {}, "weight_map": both}))
    assert folder_problems(folder) == [
        f"model.path: {index} names 1 of 2 files that are not there (b.safetensors); "
        "copy them as well"
    ]
    index.write_text("{}")
    assert folder_problems(folder) == [f"model.path: {index} has no weight_map"]
    index.write_text("no")
    assert folder_problems(folder)[0].startswith(f"model.path: {index} is not JSON")


def test_damaged_safetensors(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")

    def said(content: bytes) -> str:
        file.write_bytes(content)
        (line,) = folder_problems(folder)
        start, _, rest = line.partition(f" is cut or damaged: {len(content)} bytes, ")
        assert start == f"model.path: {file}"
        return rest.removesuffix("; copy or download it again")

    assert said(whole[:-1]) == f"{len(whole)} needed"
    assert said(whole + b"x") == f"{len(whole)} needed"
    assert said(whole[:20]) == f"at least {header} needed"
    assert said(b"") == said(b"<html>not a model</html>") == "no safetensors header"
    assert said(whole[:8] + b"x" * (len(whole) - 8)) == "its header is not safetensors JSON"
    assert said((2).to_bytes(8, "little") + b"[]") == "its header is not safetensors JSON"


def test_embedding_of_another_width(folder):
    save_file(embedding(width=4), folder / "model.safetensors")
    assert folder_problems(folder) == [
        "model.path: model.embed_tokens.weight is [16, 4], but config.json says [16, 8] "
        "(vocab_size, hidden_size); they must agree"
    ]


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "I8", "U8"])
def test_weights_of_numbers_that_need_scales(folder, dtype):
    """No quantization_config is there to say so, and transformers would read them as they are."""
    name = "model.layers.0.mlp.up_proj.weight"
    entry = {"dtype": dtype, "shape": [2, 4], "data_offsets": [0, 8]}
    header = json.dumps(
        {name: entry, name.replace("up", "down"): entry | {"data_offsets": [8, 16]}}
    )
    size = len(header).to_bytes(8, "little")
    (folder / "model.safetensors").write_bytes(size + header.encode() + bytes(16))
    assert folder_problems(folder) == [
        f"model.path: {folder / 'model.safetensors'}: {name} has dtype {dtype} (and 1 more); "
        "allowed: F32, F16, BF16, F64"
    ]


def test_masks_may_be_of_whole_numbers(folder):
    mask = {"h.0.attn.bias": np.ones((1, 1, 4, 4), np.uint8), "position_ids": np.arange(3)}
    save_file(embedding() | mask, folder / "model.safetensors")
    assert look(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "tokenizer_config.json"])
def test_a_pointer_of_git_lfs_is_no_file(folder, name):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 499723\n"
    (folder / name).write_text(pointer)
    assert folder_problems(folder) == [
        f"model.path: {folder / name} is a pointer of Git LFS, not the file; `git lfs pull` gets it"
    ]


def test_a_web_page_is_no_tokenizer(folder):
    """What a download without a login leaves behind."""
    (folder / "tokenizer.model").write_text("<!DOCTYPE html><html>log in</html>")
    assert folder_problems(folder) == [
        f"model.path: {folder / 'tokenizer.model'} is no tokenizer: it begins as a web page does; "
        "download it again"
    ]


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "special_tokens_map.json", "generation_config.json"]
)
def test_cut_json_beside_a_model(folder, name):
    (folder / name).write_text('{"model": {"vo')
    (said,) = folder_problems(folder)
    assert said.startswith(f"model.path: {folder / name} is not JSON (")


def test_more_tokens_than_embeddings(folder):
    words = {"model": {"vocab": {chr(97 + i): i for i in range(16)}}}
    (folder / "tokenizer.json").write_text(json.dumps(words))
    assert look(folder).vocab_size == 16
    many = "has a tokenizer of 17 tokens, and embeddings for 16; needed: one each"
    added = {**words, "added_tokens": [{"id": 16, "content": "<cat>"}]}
    (folder / "tokenizer.json").write_text(json.dumps(added))
    assert many in folder_problems(folder)[0]
    (folder / "tokenizer.json").write_text(json.dumps(words))
    (folder / "tokenizer_config.json").write_text('{"added_tokens_decoder": {"16": {}}}')
    assert many in folder_problems(folder)[0]
    special = {"added_tokens_decoder": {"16": {"content": "<image>", "special": True}}}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    assert look(folder).vocab_size == 16  # no text becomes it
    listed = {"model": {"vocab": [["a", 0.0]] * 17}}  # a Unigram's
    (folder / "tokenizer.json").write_text(json.dumps(listed))
    assert many in folder_problems(folder)[0]


@pytest.mark.parametrize(
    "content",
    [
        {"added_tokens": ["a"]},
        {"added_tokens": 3},
        {"model": []},
        {"model": {"vocab": 7}},
    ],
)
def test_json_that_is_no_tokenizer(folder, content):
    (folder / "tokenizer.json").write_text(json.dumps(content))
    if content == {"model": []}:
        assert look(folder)  # nothing is said of its tokens
    else:
        assert "are not as transformers writes them" in folder_problems(folder)[0]
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"added_tokens_decoder": {"x": {}}}')
    assert "are not as transformers writes them" in folder_problems(folder)[0]


def test_a_t5_without_its_start_token(folder):
    configure(folder, model_type="t5", d_model=8, num_layers=1)
    (said,) = folder_problems(folder)
    assert "has no decoder_start_token_id; the token that a decoder begins with" in said
    configure(folder, model_type="t5", d_model=8, num_layers=1, decoder_start_token_id=0)
    assert look(folder).architecture == "seq2seq"


def test_embeddings_that_are_narrower_than_the_layers(folder):
    """OPT-350M: a good folder, of a model that cannot be used."""
    configure(folder, model_type="opt", hidden_size=16, word_embed_proj_dim=8)
    (said,) = folder_problems(folder)
    assert "word_embed_proj_dim is 8 and hidden_size 16; needed: embeddings as wide as" in said


def test_many_problems_of_one_folder(folder):
    configure(folder, model_type="bart")
    (folder / "tokenizer.json").unlink()
    (folder / "model.safetensors").write_bytes(b"")
    assert len(folder_problems(folder)) == 3


def test_real_models(models_dir, stories):
    info = look(stories)
    assert (info.model_type, info.hidden_size, info.layers) == ("llama", 64, 5)
    assert (info.vocab_size, info.max_positions) == (512, 512)
    t5 = look(models_dir / "flan-t5-small-titles")
    assert (t5.architecture, t5.hidden_size, t5.layers, t5.vocab_size) == ("seq2seq", 512, 8, 32128)
    assert t5.max_positions is None


def test_positions_do_not_limit_t5(folder):
    """Old T5 configs say n_positions: 512, though positions are relative."""
    assert look(folder).architecture == "causal"
    configure(folder, model_type="t5", decoder_start_token_id=0, n_positions=4)
    info = look(folder)
    assert (info.architecture, info.max_positions) == ("seq2seq", None)


# --- the Hub ----------------------------------------------------------------------------


def test_model_dir_stands_in_for_the_hub(folder, monkeypatch):
    spec = HubModel(kind="hub", id="somebody/tiny")
    monkeypatch.setenv("HF_HUB_CACHE", str(folder.parent / "hub"))
    monkeypatch.setenv("ACCEPT_MODEL_DIR", str(folder.parent))
    assert inspect_model(spec).folder == fetch_model(spec).folder == folder
    configure(folder, model_type="bart")
    assert problems(spec)[0].startswith(f"model.id: {folder / 'config.json'}: model_type: ")
    monkeypatch.setenv("ACCEPT_MODEL_DIR", str(folder / "no"))
    assert problems(spec) == [
        f"ACCEPT_MODEL_DIR: got '{folder / 'no'}'; allowed: a folder of models"
    ]


def test_hub_cache(folder, monkeypatch):
    spec = HubModel(kind="hub", id="somebody/tiny")
    home = folder.parent / "models--somebody--tiny"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("c0ffee")
    (home / "snapshots").mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder.parent))
    assert inspect_model(spec) is None
    snapshot = home / "snapshots" / "c0ffee"
    folder.rename(snapshot)
    assert inspect_model(spec).folder == snapshot
    (snapshot / "model.safetensors").unlink()  # as AutoConfig.from_pretrained leaves it
    assert inspect_model(spec) is None


def test_hub_out_of_reach(folder, monkeypatch):
    def fail(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", fail)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder.parent / "hub"))
    monkeypatch.setenv("ACCEPT_MODEL_DIR", str(folder.parent))
    with pytest.raises(RecipeError) as caught:
        fetch_model(HubModel(kind="hub", id="somebody/tinny"))
    assert caught.value.problems == [
        "model.id: 'somebody/tinny' is not on this machine and the Hub cannot be reached "
        "(OSError); offline, set ACCEPT_MODEL_DIR to a folder that has 'tinny' in it "
        f"({folder.parent} has no 'tinny', did you mean 'tiny'?), or use model.kind=folder with "
        "model.path"
    ]


# --- speed and imports ------------------------------------------------------------------


def test_no_torch_and_quick(folder):
    code = (
        "import sys; from accept_llm.models import *; from accept_llm.recipe import *;"
        "inspect_model(FolderModel(kind='folder', path=sys.argv[1]));"
        "inspect_model(HubModel(kind='hub', id='a/b'));"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    assert time.perf_counter() - start < 5  # 0.5 s on a quiet machine


# --- the fingerprint --------------------------------------------------------------------


def test_fingerprint_is_the_same_for_copies_and_for_nothing_else(tmp_path, tiny_llama):
    """As transformers saves it: bf16 and fp32 of the same numbers, in one file and in many."""
    import torch
    from transformers import AutoModelForCausalLM

    def saved(name: str, model: Any, **how: Any) -> str:
        model.save_pretrained(tmp_path / name, **how)
        return fingerprint(weight_files(tmp_path / name)[0])

    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    plain = saved("fp32", model)
    assert saved("bf16", model.bfloat16()) == plain
    assert saved("wide", model.float()) == plain
    assert saved("many", model.bfloat16(), max_shard_size="20KB") == plain
    assert len(weight_files(tmp_path / "many")[0]) > 2
    model.model.layers[1].self_attn.o_proj.weight.data[0, 3] += 0.25
    assert saved("trained", model) != plain
