"""Every family that is let through, in states, logits and likelihoods, against transformers' own
forward of each example alone; and how other families are found out."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.backbones import (
    CPU,
    alone,
    answered_batch,
    close,
    gradients,
    info_of,
    prompt_of,
    wrap,
)
from support.families import FAMILIES, model_of, save_family
from torch import Tensor

from accept_llm.backbones.base import Backbone
from accept_llm.backbones.loading import load_backbone
from accept_llm.data.batches import IGNORED, Batch
from accept_llm.errors import RecipeError
from accept_llm.methods.base import Composed
from accept_llm.models.families import PACKED, PADDED
from accept_llm.recipe.model import FolderModel

CASES = [(family, layout) for family in PADDED for layout in ("padded", "packed")]
CASES = [(family, layout) for family, layout in CASES if layout == "padded" or family in PACKED]
EVERY = pytest.mark.parametrize(("family", "layout"), CASES)


def inputs(lm, batch: Batch, prompt: Composed) -> Iterator[Tensor]:
    """The embeddings (m + t, d) of each example alone."""
    for tokens in batch.tokens.split(batch.lengths.tolist()):
        x = lm.get_input_embeddings()(tokens) + prompt.offsets[: len(tokens)]
        yield torch.cat([prompt.prefix, x])


def own_logits(lm, x: Tensor) -> Tensor:
    return lm(inputs_embeds=x[None], use_cache=False).logits[0]


def test_every_family_has_a_tiny_member():
    assert set(FAMILIES) == set(PADDED)
    assert set(PACKED) <= set(PADDED)
    assert len(PADDED) >= 20


@pytest.mark.parametrize("reads", ["states", "logits"])
@EVERY
def test_what_is_read_is_the_models_own(family, layout, reads):
    lm, prompt = model_of(family), prompt_of(32)
    batch = answered_batch(90)
    if reads == "states":
        want = alone(lm, batch, prompt)
    else:
        want = torch.stack([own_logits(lm, x)[-1] for x in inputs(lm, batch, prompt)])
    got = wrap(lm, layout)(batch, prompt, reads=reads)
    assert want.std() > 0.05
    close(got, want)
    for a, b in zip(gradients(got, prompt), gradients(want, prompt), strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()


@EVERY
def test_likelihoods_are_the_models_own(family, layout):
    lm, prompt = model_of(family), prompt_of(32)
    batch = answered_batch(90)
    want = []
    for x, answer in zip(inputs(lm, batch, prompt), batch.answers, strict=True):
        said = answer[answer != IGNORED]
        read = torch.cat([x, lm.get_input_embeddings()(said[:-1])])
        logits = own_logits(lm, read)[len(x) - 1 :]
        want.append(logits.log_softmax(-1).gather(1, said[:, None]).sum())
    owner = torch.arange(len(batch))
    got = wrap(lm, layout).log_likelihood(batch, prompt, answers=batch.answers, owner=owner)
    close(got, torch.stack(want))


@pytest.mark.parametrize("family", ["cohere", "gemma3_text", "granite"])
def test_a_scale_that_is_left_out_would_be_seen(family):
    lm, prompt = model_of(family), prompt_of(32)
    x = next(inputs(lm, answered_batch(90), prompt))
    bare = lm.lm_head(lm.base_model(inputs_embeds=x[None]).last_hidden_state[0])
    own = own_logits(lm, x)
    assert (bare - own).norm() > 0.05 * own.norm()


# --- families that no test holds ----------------------------------------------------------


def load_other(folder: Path, tokenizer: Path, *, family: str) -> Backbone:
    spec = FolderModel(kind="folder", path=str(folder), dtype="fp32")
    info = info_of(save_family(folder, tokenizer, family))
    return load_backbone(spec, info, layout="padded", device=CPU, sharding=None)


@pytest.mark.parametrize("family", ["arcee", "seed_oss"])
def test_another_causal_family_is_found_to_be_right(tmp_path, tiny_llama, family):
    backbone = load_other(tmp_path, tiny_llama, family=family)
    lm, prompt = backbone.module.lm, prompt_of(32)
    batch = answered_batch(90)
    close(backbone(batch, prompt, reads="states"), alone(lm, batch, prompt))


@pytest.mark.parametrize("family", ["ernie", "roformer"])
def test_a_family_that_looks_both_ways_is_refused_by_name(tmp_path, tiny_llama, family):
    with pytest.raises(RecipeError, match=rf"is of type '{family}', which cannot be used \("):
        load_other(tmp_path, tiny_llama, family=family)
