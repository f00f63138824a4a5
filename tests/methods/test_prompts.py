"""Prompts against a naive loop, finite differences, numpy, and the counts of the paper."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from accept_llm.errors import RecipeError
from accept_llm.methods.base import Method, Start
from accept_llm.methods.codebook import SoftCodebook
from accept_llm.methods.prompts import AcceptPrompt, DeptPrompt, PlainPrompt
from accept_llm.methods.start import GAUSSIAN_STD, sample_vocabulary
from accept_llm.methods.table import build_method
from accept_llm.models.folder import check_folder
from accept_llm.recipe.budget import CodebookShape, PromptShape
from accept_llm.recipe.method import Accept, Dept, PromptTuning
from accept_llm.recipe.task import BuiltinTask
from accept_llm.tasks.table import TASKS

EVEN_AND_UNEVEN = [(12, 3), (13, 3), (7, 7), (10, 1), (64, 24), (5, 4)]


def codebook(tokens: int, hidden: int, subspaces: int, codewords: int) -> SoftCodebook:
    book = SoftCodebook(CodebookShape(tokens, hidden, subspaces, codewords))
    draw = torch.Generator().manual_seed(tokens * 31 + hidden)
    book.init_gaussian(weights=codewords**-0.5, codewords=1.0, generator=draw)
    return book


def column_owner(hidden: int, subspaces: int) -> list[int]:
    """The subspace of each column: the first d % K subspaces have one more."""
    sizes = [hidden // subspaces + (1 if k < hidden % subspaces else 0) for k in range(subspaces)]
    return [k for k, size in enumerate(sizes) for _ in range(size)]


def naive(book: SoftCodebook) -> np.ndarray:
    """Equation 3 as it stands: a loop over rows, columns and codewords, in float64."""
    weights = book.weights.detach().double().numpy()
    words = book.codewords.detach().double().numpy()
    out = np.zeros((weights.shape[0], words.shape[1]))
    owner = column_owner(words.shape[1], weights.shape[1])
    for i in range(out.shape[0]):
        for column, k in enumerate(owner):
            for j in range(words.shape[0]):
                out[i, column] += weights[i, k, j] * words[j, column]
    return out


@pytest.mark.parametrize(("hidden", "subspaces"), EVEN_AND_UNEVEN)
def test_compose_equals_the_triple_loop(hidden, subspaces):
    book = codebook(4, hidden, subspaces, 3)
    assert book.compose().shape == (4, hidden)
    np.testing.assert_allclose(book.compose().detach().numpy(), naive(book), atol=1e-6, rtol=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 24), st.integers(1, 5), st.data())
def test_compose_equals_the_triple_loop_for_any_shape(tokens, hidden, codewords, data):
    book = codebook(tokens, hidden, data.draw(st.integers(1, hidden)), codewords)
    np.testing.assert_allclose(book.compose().detach().numpy(), naive(book), atol=2e-6, rtol=0)


@pytest.mark.parametrize(("hidden", "subspaces"), EVEN_AND_UNEVEN[:4])
def test_gradients_equal_finite_differences(hidden, subspaces):
    book = codebook(3, hidden, subspaces, 2).double()

    def compose(weights, codewords):
        parts = {"weights": weights, "codewords": codewords}
        return torch.func.functional_call(
            _Compose(book), {f"book.{k}": v for k, v in parts.items()}
        )

    inputs = [p.detach().clone().requires_grad_() for p in (book.weights, book.codewords)]
    assert torch.autograd.gradcheck(compose, inputs, eps=1e-6, atol=1e-7)


class _Compose(torch.nn.Module):
    def __init__(self, book):
        super().__init__()
        self.book = book

    def forward(self):
        return self.book.compose()


# --- counts -----------------------------------------------------------------------------

# Table 12 of the paper: T5-base, d = 768, m = 60, l = 256.
TABLE_12_SCPP = [
    *[(16, 12, 74496), (32, 20, 74880), (64, 30, 75360), (96, 36, 75648), (128, 40, 75840)],
    *[(192, 45, 76080), (256, 48, 76224), (384, 51, 76008), (768, 55, 76260)],
]
TABLE_12_SCAP = [
    *[(16, 2, 72192), (32, 4, 73728), (64, 8, 76800), (96, 10, 74240), (128, 13, 76032)],
    *[(192, 17, 76544), (256, 20, 76800), (384, 24, 76800), (768, 30, 76800)],
]


def accept(**more) -> Accept:
    return Accept.model_validate({"kind": "accept", **more})


def module_of(shape: PromptShape) -> Method:
    codebooks = shape.prepended or shape.added
    return (DeptPrompt if shape.rank else AcceptPrompt if codebooks else PlainPrompt)(shape)


def parameters(shape: PromptShape) -> int:
    """What the real module has, not what the rule says."""
    count = sum(p.numel() for p in module_of(shape).parameters())
    assert shape.parameters == count
    return count


@pytest.mark.parametrize(("subdim", "codewords", "count"), TABLE_12_SCPP)
def test_table_12_scpp(subdim, codewords, count):
    shape = accept(prepended={"subdim": subdim}, added=None).shape(hidden=768, positions=256)
    pair = Dept(kind="dept", rank=30).shape(hidden=768, positions=256)
    pair_numbers = sum(p.numel() for p in module_of(pair).pair.parameters())
    assert (shape.prepended.codewords, pair_numbers) == (codewords, 30_720)
    assert parameters(shape) + pair_numbers == count


@pytest.mark.parametrize(("subdim", "codewords", "count"), TABLE_12_SCAP)
def test_table_12_scap(subdim, codewords, count):
    shape = accept(added={"subdim": subdim}).shape(hidden=768, positions=256)
    plain = parameters(PromptTuning(kind="pt", budget=60).shape(hidden=768, positions=256))
    assert (shape.added.codewords, plain) == (codewords, 46_080)
    assert sum(p.numel() for p in module_of(shape).added.parameters()) + plain == count


@pytest.mark.parametrize(
    ("spec", "hidden", "prepended", "added"),
    [
        (accept(), 768, 44_160, 30_720),
        (accept(prepended={"subdim": 32}), 4096, 235_520, 161_280),
        (PromptTuning(kind="pt"), 4096, 409_600, 0),
    ],
)
def test_counts_of_the_paper(spec, hidden, prepended, added):
    shape = spec.shape(hidden=hidden, positions=256)
    groups = module_of(shape).groups()
    found = {k: sum(p.numel() for p in v) for k, v in groups.items()}
    assert found == {"prepended": prepended, **({"added": added} if added else {})}
    assert set(found) == set(spec.rates)
    head = torch.nn.Linear(4096, 2, bias=False).weight.numel()
    total = {(768, 74_880): 74_880, (4096, 396_800): 404_992, (4096, 409_600): 417_792}
    assert parameters(shape) + (head if hidden == 4096 else 0) == total[hidden, prepended + added]


# d_model as in each model's config.json; r by hand: 60 d // (d + 1440), 40 d // (d + 2 l).
T5_SIZES = {
    "google-t5/t5-small": (512, 15 * 1952 + 20 * 1024),
    "google-t5/t5-base": (768, 74_880),
    "google-t5/t5-large": (1024, 24 * 2464 + 26 * 1536),
    "google-t5/t5-3b": (1024, 24 * 2464 + 26 * 1536),
    "google/flan-t5-xxl": (4096, 44 * 5536 + 35 * 4608),
}


@pytest.mark.parametrize("name", T5_SIZES)
def test_counts_of_t5_from_its_config(tmp_path, name):
    """Widths come from d_model, whatever the other sizes of an encoder-decoder are."""
    hidden, numbers = T5_SIZES[name]
    config = {"model_type": "t5", "is_encoder_decoder": True, "d_model": hidden, "d_kv": 128}
    config |= {"d_ff": 10240, "num_layers": 24, "vocab_size": 32128, "n_positions": 512}
    config["decoder_start_token_id"] = 0
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text("{}")
    save_file({"lm_head.weight": torch.zeros(1, 1)}, tmp_path / "model.safetensors")
    info, problems = check_folder(tmp_path)
    assert info is not None, problems
    shape = Accept(kind="accept").shape(hidden=info.hidden_size, positions=256)
    assert sum(p.numel() for p in module_of(shape).parameters()) == shape.parameters == numbers


@pytest.mark.parametrize(("task", "length", "scap"), [("multirc", 348, 20), ("nq", 512, 17)])
def test_longer_inputs_have_fewer_codewords(task, length, scap):
    """l = 348 and 512: SCAP keeps within its 40 d numbers."""
    assert TASKS[task].max_length == BuiltinTask(kind=task).max_length == length
    shape = Accept(kind="accept").shape(hidden=768, positions=length)
    assert shape.parameters == 44_160 + scap * (768 + 2 * length)
    assert shape.parameters <= 100 * 768 < shape.parameters + 768 + 2 * length + 2208


def test_subdim_and_subspaces_say_the_same():
    by_width = accept(prepended={"subdim": 32}, added={"subdim": 384}).shape(**SIZES)
    by_count = accept(prepended={"subspaces": 24}, added={"subspaces": 2}).shape(**SIZES)
    assert by_width == by_count == accept().shape(**SIZES)


SIZES = {"hidden": 768, "positions": 256}


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 400), st.integers(1, 60), st.integers(1, 300), st.data())
def test_the_budget_is_used_up_but_not_exceeded(hidden, length, positions, data):
    count = data.draw(st.integers(1, min(hidden, 8)))
    try:
        shape = accept(length=length, prepended={"subspaces": count}, added=None).shape(
            hidden=hidden, positions=positions
        )
    except RecipeError:  # not one codeword is affordable
        assert hidden + length * count > length * hidden
        return
    one = hidden + length * count
    assert parameters(shape) <= length * hidden < parameters(shape) + one
    assert sum(shape.prepended.widths) == hidden


def test_what_the_budget_cannot_buy_is_refused():
    with pytest.raises(RecipeError, match=r"method\.added\.subspaces: got 64"):
        accept(budget=61, added={"subspaces": 64}).shape(hidden=64, positions=256)
    with pytest.raises(RecipeError, match=r"subspaces: got 65; allowed: at most .* \(64\)"):
        accept(prepended={"subspaces": 65}).shape(hidden=64, positions=8)
    with pytest.raises(RecipeError, match=r"method\.budget: got 61; allowed: enough for rank 1"):
        Dept(kind="dept", budget=61).shape(hidden=64, positions=8)


# --- initialisation ---------------------------------------------------------------------


def embed(ids: torch.Tensor) -> torch.Tensor:
    """A vocabulary of 300 full-rank rows."""
    table = torch.randn(300, 40, generator=torch.Generator().manual_seed(9))
    return table[ids]


def build(spec, *, hidden=40, positions=20, seed=0) -> Method:
    shape = spec.shape(hidden=hidden, positions=positions)
    return build_method(spec, shape, start=Start(embed, 300, torch.Generator().manual_seed(seed)))


SCALES = pytest.mark.parametrize("scale", ["embeddings", "none"])


@SCALES
@pytest.mark.parametrize("subspaces", [3, 5, 1])  # 40 is 14 + 13 + 13, 5 x 8, 40
def test_vocab_start_is_the_best_fit_of_rank_r(subspaces, scale):
    start = {"subspaces": subspaces, "codewords": 4}
    spec = accept(length=30, scale=scale, prepended=start)
    rows = (
        embed(sample_vocabulary(30, 300, generator=torch.Generator().manual_seed(0)))
        .double()
        .numpy()
    )
    composed = build(spec).compose().prefix.detach().numpy()
    owner = np.array(column_owner(40, subspaces))
    for k in range(subspaces):
        part = rows[:, owner == k]
        best = (np.linalg.svd(part, compute_uv=False)[4:] ** 2).sum()  # Eckart-Young
        error = ((part - composed[:, owner == k]) ** 2).sum()
        assert best > 1
        assert error == pytest.approx(best, rel=1e-5)


@SCALES
def test_vocab_start_is_exact_where_the_rank_suffices(scale):
    start = {"subspaces": 5, "codewords": 11}  # widths are 8
    spec = accept(length=30, scale=scale, prepended=start)
    rows = embed(sample_vocabulary(30, 300, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(build(spec).compose().prefix, rows, atol=1e-5, rtol=0)


@SCALES
@pytest.mark.parametrize("spec", [PromptTuning, Dept])
def test_vocab_start_of_free_tokens_is_the_vocabulary(spec, scale):
    prompt = build(spec(kind="pt" if spec is PromptTuning else "dept", scale=scale))
    ids = sample_vocabulary(prompt.shape.length, 300, generator=torch.Generator().manual_seed(0))
    atol = 1e-6 if scale == "embeddings" else 0
    torch.testing.assert_close(prompt.compose().prefix, embed(ids), atol=atol, rtol=0)


def test_sampled_vocabulary_is_common_and_without_repeats():
    ids = sample_vocabulary(60, 32_000, generator=torch.Generator().manual_seed(1))
    assert len(set(ids.tolist())) == 60
    assert max(ids) < 5000
    few = sample_vocabulary(10, 4, generator=torch.Generator().manual_seed(1)).tolist()
    assert len(few) == 10
    assert {few.count(i) for i in range(4)} == {2, 3}


def test_zero_scap_adds_nothing_yet_learns():
    prompt = build(accept())
    offsets = prompt.compose().offsets
    assert torch.equal(offsets, torch.zeros(20, 40))
    offsets.backward(torch.ones(20, 40))
    assert prompt.added.codewords.grad.abs().min() > 0


def test_dept_starts_at_zero_offset_yet_learns():
    prompt = build(Dept(kind="dept"))
    offsets = prompt.compose().offsets
    assert torch.equal(offsets, torch.zeros(20, 40))
    offsets.backward(torch.ones(20, 40))
    assert prompt.pair.b.grad.abs().min() > 0


def test_dept_is_a_low_rank_pair():
    prompt = module_of(Dept(kind="dept", rank=3).shape(hidden=40, positions=20))
    for parameter in prompt.pair.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    a, b = prompt.pair.a.detach().numpy(), prompt.pair.b.detach().numpy()
    want = np.array(
        [[sum(a[i, s] * b[s, j] for s in range(3)) for j in range(40)] for i in range(20)]
    )
    np.testing.assert_allclose(prompt.compose().offsets.detach().numpy(), want, atol=1e-5)


@SCALES
@pytest.mark.parametrize("codewords", [2, 17, 60])
def test_gaussian_start_has_the_scale_of_embeddings(codewords, scale):
    start = {"init": "gaussian", "codewords": codewords}
    spec = accept(length=60, scale=scale, prepended={"subspaces": 24, **start}, added=start)
    composed = build(spec, hidden=600, positions=256).compose()
    std = GAUSSIAN_STD if scale == "none" else embed(torch.arange(300)).std().item()
    for part in composed.prefix, composed.offsets:
        # Few codewords share few draws: with r = 2 the spread of the estimate is ~3 %.
        assert part.std().item() == pytest.approx(std, rel=0.12)
        assert abs(part.mean().item()) < 0.1 * std


@SCALES
@pytest.mark.parametrize("spec", [PromptTuning, Dept])
def test_gaussian_start_of_free_tokens(spec, scale):
    kind = "pt" if spec is PromptTuning else "dept"
    prefix = build(spec(kind=kind, scale=scale, init="gaussian"), hidden=400).compose().prefix
    std = GAUSSIAN_STD if scale == "none" else embed(torch.arange(300)).std().item()
    assert prefix.std().item() == pytest.approx(std, rel=0.03)


def test_kaiming_start_fills_its_bounds():
    start = {"init": "kaiming", "codewords": 9}
    spec = accept(length=60, scale="none", prepended=start, added=start)
    prompt = build(spec, hidden=400, positions=50)
    for book in prompt.prepended, prompt.added:
        for tensor, fan in (book.weights, 9), (book.codewords, 400):
            assert 0.95 * fan**-0.5 < tensor.abs().max() <= fan**-0.5
            assert tensor.std().item() == pytest.approx(fan**-0.5 / 3**0.5, rel=0.1)


@pytest.mark.parametrize(
    "spec",
    [
        accept(),
        accept(scale="none", prepended={"init": "gaussian"}, added={"init": "kaiming"}),
        PromptTuning(kind="pt", init="gaussian"),
        Dept(kind="dept", scale="none", init="kaiming"),
    ],
    ids=lambda spec: spec.kind,
)
def test_same_seed_same_numbers(spec):
    one, two, other = (list(build(spec, seed=s).parameters()) for s in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# --- what is left out, and the step through the leaves ----------------------------------


def test_parts_can_be_left_out():
    assert build(accept(length=0)).compose().prefix is None
    assert build(accept(added=None)).compose().offsets is None
    assert build(PromptTuning(kind="pt")).compose().offsets is None


@pytest.mark.parametrize(
    "spec",
    [
        *[accept(), accept(length=0), accept(added=None), accept(scale="none")],
        *[Dept(kind="dept"), Dept(kind="dept", scale="none"), PromptTuning(kind="pt")],
    ],
    ids=str,
)
def test_gradients_through_leaves_equal_direct_ones(spec):
    def loss(composed, factor):
        parts = [x for x in (composed.prefix, composed.offsets) if x is not None]
        return factor * sum(
            (x * torch.linspace(-1, 1, x.numel()).view_as(x)).exp().sum() for x in parts
        )

    direct, through = build(spec).double(), build(spec).double()
    (loss(direct.compose(), 1.0) + loss(direct.compose(), 2.5)).backward()
    composed = through.compose()
    leaves = composed.leaves()
    for factor in (1.0, 2.5):  # two micro-batches meet at the leaves
        loss(leaves, factor).backward()
    composed.backward(leaves)
    for one, two in zip(direct.parameters(), through.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=1e-12, rtol=1e-12)
