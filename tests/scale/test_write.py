"""The writer of the large checkpoints, at tiny sizes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
from write_checkpoint import size_of

from accept_llm.models.find import inspect_model
from accept_llm.recipe.model import FolderModel

TINY = {
    "llama2_7b": {
        **{"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 512},
    },
    "flan_t5_xxl": {
        **{"d_model": 64, "d_ff": 172, "d_kv": 8, "num_heads": 4, "vocab_size": 512},
        **{"num_layers": 2, "num_decoder_layers": 2},
    },
}
EMBEDDINGS = {"llama2_7b": "model.embed_tokens.weight", "flan_t5_xxl": "shared.weight"}


@pytest.fixture(scope="module", params=TINY)
def folder(request, tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("tiny")
    (base / "tokenizer.json").write_text("{}")
    script = Path(__file__).with_name("write_checkpoint.py")
    out = base / request.param
    command = [sys.executable, str(script), "--model", request.param, "--tokenizer", str(base)]
    command += ["--out", str(out), "--largest-file", "80000"]
    command += ["--config", json.dumps(TINY[request.param])]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": ""})
    return out


def test_folder_is_accepted(folder):
    info = inspect_model(FolderModel(kind="folder", path=str(folder)))
    assert (info.hidden_size, info.layers, info.vocab_size) == (64, 2, 512)
    assert len(info.files) > 2
    assert all(file.stat().st_size < 85_000 for file in info.files)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {file.name for file in info.files}


def test_transformers_loads_it(folder):
    t5 = folder.name == "flan_t5_xxl"
    model, report = (AutoModelForSeq2SeqLM if t5 else AutoModelForCausalLM).from_pretrained(
        folder, dtype=torch.bfloat16, output_loading_info=True
    )
    assert not any(report.values()), report
    weights = model.state_dict()
    embedding, head = weights[EMBEDDINGS[folder.name]], weights["lm_head.weight"]
    assert not torch.equal(embedding, head)
    for weight in embedding, head:
        assert abs(weight.float().std().item() - 0.02) < 0.002
        assert abs(weight.float().mean().item()) < 0.001
    for name, weight in weights.items():
        assert weight.ndim == 2 or torch.equal(weight, torch.ones_like(weight)), name
    tokens = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        more = {"decoder_input_ids": tokens} if t5 else {}
        assert model(tokens, **more).logits.isfinite().all()


@pytest.mark.parametrize(
    ("model", "size"),
    [("llama2_7b", 13.477e9), ("flan_t5_xxl", 11.397e9), ("flan_t5_xxl_full", 22.271e9)],
)
def test_default_sizes(model, size):
    assert size_of(model) == pytest.approx(size, rel=1e-3)
