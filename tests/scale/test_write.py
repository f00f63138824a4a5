"""The writer of the large checkpoint, at a tiny size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from accept_llm.models import inspect_model
from accept_llm.recipe import FolderModel

SIZES = {"hidden": 64, "ffn": 172, "layers": 2, "heads": 4, "vocab": 512, "largest-file": 120_000}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("tiny7b")
    (base / "tokenizer.json").write_text("{}")
    script = Path(__file__).with_name("write_llama2_7b.py")
    command = [sys.executable, str(script), "--out", str(base / "out"), "--tokenizer", str(base)]
    command += [text for name, size in SIZES.items() for text in (f"--{name}", str(size))]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": ""})
    return base / "out"


def test_folder_is_accepted(folder):
    info = inspect_model(FolderModel(kind="folder", path=str(folder)))
    assert (info.hidden_size, info.layers, info.vocab_size) == (64, 2, 512)
    assert len(info.files) > 2
    assert all(file.stat().st_size < 125_000 for file in info.files)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {file.name for file in info.files}


def test_transformers_loads_it(folder):
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, output_loading_info=True
    )
    assert not any(report.values()), report
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    weight = model.model.layers[1].mlp.down_proj.weight.float()
    assert abs(weight.std().item() - 0.02) < 0.002
    assert abs(weight.mean().item()) < 0.001
    assert torch.equal(model.model.norm.weight, torch.ones(64, dtype=torch.bfloat16))
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    with torch.no_grad():
        assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()
