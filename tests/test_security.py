"""Files of others that would run code, or take all memory, if they were believed."""

import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from support.runs import write_recipe

from accept_llm.adapter.folder import load
from accept_llm.data.readers import read_rows
from accept_llm.errors import RecipeError
from accept_llm.models.find import inspect_model
from accept_llm.recipe.model import FolderModel, GgufModel
from accept_llm.recipe.recipe import load_recipe
from accept_llm.training.state import FILE, load_state


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path):
    yield tmp_path / "code_ran"
    assert not (tmp_path / "code_ran").exists()


def test_a_pickle_in_the_place_of_a_state(tmp_path, mark):
    for content in (pickle.dumps(Runs(mark)), pickle.dumps({"step": Runs(mark)}, protocol=2)):
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(RecipeError, match=r"resume: .* cannot be read"):
            load_state(tmp_path)
    torch.save({"step": Runs(mark)}, tmp_path / FILE)
    with pytest.raises(RecipeError, match=r"resume: .* cannot be read"):
        load_state(tmp_path)


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.mkdir [{}]", "!!python/name:os.mkdir", "!!python/module:os"]
)
def test_a_yaml_tag_in_a_recipe(tmp_path, tiny_llama, mark, tag):
    path = write_recipe(tmp_path, tiny_llama)
    path.write_text(path.read_text() + f"output_dir: {tag.format(mark)}\n")
    with pytest.raises(RecipeError, match="is not YAML"):
        load_recipe(path)
    with pytest.raises(RecipeError, match="not YAML"):
        load_recipe(write_recipe(tmp_path, tiny_llama), [f"name={tag.format(mark)}"])


def test_weights_that_are_a_pickle(tmp_path, tiny_llama, mark):
    for file in tiny_llama.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Runs(mark)))
    spec = FolderModel(kind="folder", path=str(tmp_path))
    with pytest.raises(RecipeError, match=r"weights only as pytorch_model\.bin"):
        inspect_model(spec)
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Runs(mark)))
    with pytest.raises(RecipeError, match="cut or damaged"):
        inspect_model(spec)


def test_code_beside_a_model_is_not_run(tmp_path, tiny_llama, mark):
    for file in tiny_llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    from accept_llm.models.families import read_config

    info = inspect_model(FolderModel(kind="folder", path=str(tmp_path)))
    with pytest.raises(RecipeError, match="needs code of its own, which is never run here"):
        read_config(info)


@pytest.mark.parametrize("length", [2**63, 2**40, 100_000_001, 99_999_999, 0])
def test_the_length_of_a_safetensors_header(tmp_path, tiny_llama, length):
    for file in tiny_llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(RecipeError, match="cut or damaged"):
        inspect_model(FolderModel(kind="folder", path=str(tmp_path)))


def test_offsets_of_a_safetensors_header_that_lie(tmp_path, tiny_llama):
    for file in tiny_llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for offsets in ([0, 2**62], [-8, 8], ["a", "b"], [8], None):
        entry = {"dtype": "F32", "shape": [2], "data_offsets": offsets}
        header = json.dumps({"model.embed_tokens.weight": entry}).encode()
        content = struct.pack("<Q", len(header)) + header + bytes(8)
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(RecipeError, match=r"cut or damaged|must agree"):
            inspect_model(FolderModel(kind="folder", path=str(tmp_path)))


@pytest.mark.parametrize(
    "rest",
    [
        struct.pack("<QQ", 2**63, 0),
        struct.pack("<QQ", 0, 2**63),
        struct.pack("<QQQ", 0, 1, 2**63) + b"key",
        struct.pack("<QQQ3sIIQ", 0, 1, 3, b"key", 9, 8, 2**62),
        struct.pack("<QQQ3sIIQ", 0, 1, 3, b"key", 9, 4, 2**62),
        struct.pack("<QQQ1sIQQ", 1, 0, 1, b"w", 2**31, 8, 8),
    ],
)
def test_counts_of_a_gguf_header_that_lie(tmp_path, rest):
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + struct.pack("<I", 3) + rest)
    with pytest.raises(RecipeError, match="cut or damaged"):
        inspect_model(GgufModel(kind="gguf", file=str(tmp_path / "m.gguf")))


@pytest.mark.parametrize("name", ["prompt.safetensors", "prompt.json"])
def test_an_adapter_that_is_a_pickle(tmp_path, mark, name):
    (tmp_path / name).write_bytes(pickle.dumps(Runs(mark)))
    with pytest.raises(RecipeError, match="adapter: "):
        load(tmp_path)


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet"])
def test_rows_that_are_a_pickle(tmp_path, mark, kind):
    path = tmp_path / f"rows.{kind}"
    path.write_bytes(pickle.dumps(Runs(mark)))
    with pytest.raises(RecipeError, match="cannot be read as"):
        read_rows(path, field="task.train", columns={"text": "task.text"})
