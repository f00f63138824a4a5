"""Prompts in units of the embeddings' scale: the same parameters on every scale, and steps of a
known size whatever the sizes of the prompt are."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from accept_llm.errors import RecipeError
from accept_llm.methods.base import Method, Start
from accept_llm.methods.start import interpolation
from accept_llm.methods.table import build_method, method_from_card
from accept_llm.recipe.method import Accept, Dept, MethodSpec, PromptTuning

HIDDEN, POSITIONS, VOCABULARY = 144, 96, 6000


def start(scale: float = 1.0, *, hidden: int = HIDDEN) -> Start:
    """Word embeddings of this deviation, but for rare tokens, whose numbers are far off."""
    table = torch.randn(VOCABULARY, hidden, generator=torch.Generator().manual_seed(1)) * scale
    table[5000:] *= 100
    return Start(lambda ids: table[ids], VOCABULARY, torch.Generator().manual_seed(2))


def build(spec: MethodSpec, scale: float = 1.0, *, hidden: int = HIDDEN) -> Method:
    shape = spec.shape(hidden=hidden, positions=POSITIONS)
    return build_method(spec, shape, start=start(scale, hidden=hidden))


def accept(**more) -> Accept:
    return Accept.model_validate({"kind": "accept", **more})


GAUSSIAN = {"init": "gaussian"}
SPECS = {
    "accept": accept(),
    "gaussian": accept(prepended=GAUSSIAN, added=GAUSSIAN),
    "few codewords": accept(prepended={"codewords": 2}, added={"codewords": 2}),
    "one subspace": accept(prepended={"subspaces": 1}, added={"subspaces": 1}),
    "narrow subspaces": accept(prepended={"subdim": 6}, added={"subdim": 6}),
    "short": accept(length=12, budget=20),
    "long": accept(length=240, budget=400),
    "pt": PromptTuning(kind="pt"),
    "pt gaussian": PromptTuning(kind="pt", init="gaussian"),
    "dept": Dept(kind="dept"),
    "dept of rank 2": Dept(kind="dept", rank=2),
}
EVERY = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def parts(method: Method) -> dict[str, Tensor]:
    composed = method.compose()
    found = {"prefix": composed.prefix, "offsets": composed.offsets}
    return {name: part for name, part in found.items() if part is not None}


@EVERY
@pytest.mark.parametrize("scale", [1 / 7, 3.0])
def test_the_same_parameters_on_every_scale(spec, scale):
    """What is composed, and what a step changes in it, follows the embeddings exactly."""
    one, other = build(spec), build(spec, scale)
    assert other.shape.scale == pytest.approx(scale * one.shape.scale, rel=1e-6)
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        # The sign of a singular vector is arbitrary.
        torch.testing.assert_close(mine.abs(), theirs.abs(), rtol=1e-3, atol=1e-3)
    for mine, theirs in zip(parts(one).values(), parts(other).values(), strict=True):
        torch.testing.assert_close(mine * scale, theirs, rtol=1e-4, atol=1e-4 * scale)


def test_the_scale_is_the_deviation_of_the_common_tokens():
    found = build(PromptTuning(kind="pt"), 0.017).shape.scale
    table = start(0.017).embed(torch.arange(5000)).double().numpy()
    assert found == pytest.approx(np.std(table, ddof=1), rel=1e-12)


@EVERY
@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_a_step_moves_what_is_composed_by_its_rate(spec, rate):
    """One AdamW step with gradients that have nothing in common, at rate `lr`: the root mean square
    of the change, in units of the scale, is about `lr`: more where few rows share a codeword and
    agree by chance, less where a fit of low rank is smaller than the embeddings, and between two
    places of SCAP."""
    method = build(spec, 0.05)
    before = {name: part.detach() for name, part in parts(method).items()}
    draw = torch.Generator().manual_seed(3)
    loss = sum(
        (part * torch.randn(part.shape, generator=draw)).sum() for part in parts(method).values()
    )
    loss.backward()
    torch.optim.AdamW(method.parameters(), lr=rate, weight_decay=0).step()
    for name, part in parts(method).items():
        moved = (part - before[name]).pow(2).mean().sqrt().item() / method.shape.scale
        assert 0.7 * rate < moved < 1.4 * rate, name


@EVERY
def test_the_card_has_the_scale_and_makes_the_same_prompt(spec):
    method = build(spec, 0.017)
    again = method_from_card(json.loads(json.dumps(method.card())))
    again.load_state_dict(method.state_dict())
    assert again.shape == method.shape
    for mine, theirs in zip(parts(method).values(), parts(again).values(), strict=True):
        assert mine.equal(theirs)


def test_a_product_is_divided_by_twice_the_root_of_its_terms():
    """As docs/learning.md has it, in numpy: the shares of the tests above rest on this factor."""
    method = build(accept(), 0.05)
    book, r = method.prepended, method.shape.prepended.codewords
    weights, words = (x.detach().double().numpy() for x in (book.weights, book.codewords))
    width = HIDDEN // weights.shape[1]
    columns = [weights[:, k // width] @ words[:, k] for k in range(HIDDEN)]
    want = np.stack(columns, axis=1) * method.shape.scale / (2 * r**0.5)
    got = method.compose().prefix.detach().numpy()
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize(
    ("positions", "codewords"), [(256, 21), (256, 1), (512, 17), (6, 5), (5, 5), (1, 1)]
)
def test_each_codeword_of_scap_has_a_place(positions, codewords):
    """A position takes from the two places around it, in parts that add up to one."""
    shares = interpolation(positions, codewords).numpy()
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-4)
    places = shares @ np.arange(codewords)
    assert places[0] == 0
    assert places[-1] == pytest.approx(codewords - 1, abs=1e-4)
    steps = np.diff(places)
    assert (steps >= 0).all()
    assert (np.diff(steps) < 1e-4).all(), "places lie further apart towards the end"
    if codewords > 1:
        assert 0.9 < steps[0] <= 1.0001
    for row in shares:
        used = np.flatnonzero(row)
        assert len(used) == 1 or (len(used) == 2 and used[1] == used[0] + 1)
    assert (shares.max(axis=0) > 0).all()


def test_scap_starts_at_its_places():
    """Codewords of 1 then compose to the scale at every position."""
    method = build(accept(), 0.05)
    method.added.codewords.data.fill_(1.0)
    offsets = method.compose().offsets
    torch.testing.assert_close(
        offsets, torch.full_like(offsets, method.shape.scale), rtol=1e-4, atol=0
    )
    wide = build(accept(added={"codewords": POSITIONS + 3}))
    assert wide.added.weights[:, :, POSITIONS:].abs().min() > 0, "free codewords can learn"


def test_without_a_scale_the_parameters_are_the_vectors_own():
    method = build(PromptTuning(kind="pt", scale="none"), 0.017)
    assert method.shape.scale is None
    assert method.compose().prefix is method.tokens


def test_codewords_beyond_the_rank_of_the_start_can_learn():
    """r may exceed a subspace's width: the fit then leaves codewords free."""
    method = build(accept(prepended={"subdim": 4, "codewords": 9}))
    loss = (method.compose().prefix * torch.linspace(-1, 1, HIDDEN)).pow(2).sum()
    loss.backward()
    assert method.prepended.codewords.grad[8].abs().min() > 0


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_embeddings_without_a_scale_are_refused(value):
    broken = replace(start(), embed=lambda ids: torch.full((len(ids), HIDDEN), value))
    spec = PromptTuning(kind="pt")
    with pytest.raises(RecipeError, match=r"method\.scale: got embeddings, .*; allowed: none"):
        build_method(spec, spec.shape(hidden=HIDDEN, positions=POSITIONS), start=broken)


def test_kaiming_has_a_scale_of_its_own():
    for section in (
        {"kind": "pt", "init": "kaiming"},
        {"kind": "dept", "init": "kaiming"},
        {"kind": "accept", "prepended": {"init": "kaiming"}, "added": {"init": "kaiming"}},
    ):
        read = TypeAdapter(MethodSpec).validate_python
        with pytest.raises(ValueError, match=r"init: got 'kaiming'; allowed: .*method\.scale none"):
            read(section)
        assert read({**section, "scale": "none"}).scale == "none"
