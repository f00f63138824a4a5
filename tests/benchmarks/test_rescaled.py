"""The rescaled Llama is the same function with embeddings of another scale."""

import json
import shutil
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks import rescaled

SCALES = ("1", "1/3", "1/7", "3")


@pytest.fixture(scope="module")
def plain(tiny_llama: Path, tmp_path_factory) -> Path:
    """A Llama whose norms have an epsilon that is felt."""
    folder = tmp_path_factory.mktemp("plain") / "llama"
    shutil.copytree(tiny_llama, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.01}))
    return folder


@pytest.fixture(scope="module")
def folders(plain: Path, tmp_path_factory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("rescaled")
    rescaled.main(["--out", str(out), "--model", str(plain)])
    return {scale: rescaled.folder_of(out, Fraction(scale)) for scale in SCALES}


@torch.no_grad()
@pytest.mark.parametrize("scale", SCALES)
def test_the_rescaled_model_computes_the_same(plain, folders, scale):
    a = float(Fraction(scale))
    vectors = 0.15 * torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(1))
    before, scaled = (
        AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32).eval()
        for f in (plain, folders[scale])
    )
    words = [lm.get_input_embeddings().weight for lm in (before, scaled)]
    assert torch.allclose(words[1], a * words[0], rtol=1e-6)
    ids = torch.arange(3, 75).view(2, -1)
    for mine, theirs in (
        ({"input_ids": ids}, {"input_ids": ids}),
        ({"inputs_embeds": vectors}, {"inputs_embeds": a * vectors}),
    ):
        want, got = (lm(**given).logits for lm, given in ((before, mine), (scaled, theirs)))
        assert (want - got).abs().max() < 1e-5 * want.abs().max()


def test_another_family_is_refused(tiny_t5, tmp_path):
    with pytest.raises(SystemExit, match="--model: got a t5; allowed: a llama"):
        rescaled.main(["--out", str(tmp_path), "--model", str(tiny_t5)])
