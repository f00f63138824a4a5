"""torch.compile around the attention: the same numbers, and one compilation for all batches."""

import os
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from support.backbones import CPU, close, info_of
from support.runs import finish, start_ranks, write_recipe
from torch._dynamo.utils import counters

from accept_llm.backbones.loading import load_backbone
from accept_llm.checks import prepare_training
from accept_llm.data.batches import collate
from accept_llm.data.encoding import Encoded
from accept_llm.engines.facts import ENGINES
from accept_llm.errors import RecipeError
from accept_llm.heads import Generate
from accept_llm.methods.base import Composed
from accept_llm.recipe.model import FolderModel
from accept_llm.recipe.recipe import load_recipe

NEEDS_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
HEAD = Generate(max_new_tokens=8, num_beams=1, end=2)
# Lengths of the examples of each batch: in one group of like lengths, or several. Without padding
# transformers leaves T5's mask out, which is compiled by itself.
BATCHES = [(5, 1, 9, 2, 7), (8, 8, 8), (3, 4), (12, 11, 2, 2, 30, 6, 9), (6, 6)]


def built(folder: Path, *, compile: bool, **more):
    spec = FolderModel(kind="folder", path=str(folder), compile=compile, **more)
    info = info_of(folder)
    layout = "padded" if info.architecture == "seq2seq" else "packed"
    return load_backbone(spec, info, layout=layout, device=CPU, sharding=None)


def prompt() -> Composed:
    draw = torch.Generator().manual_seed(4)
    return Composed(*(torch.randn(n, 64, generator=draw).requires_grad_() for n in (6, 40)))


def batch_of(lengths: tuple[int, ...]):
    draw = torch.Generator().manual_seed(3)
    rows = [torch.randint(3, 90, (n,), generator=draw).tolist() for n in lengths]
    return collate([Encoded(str(i), tuple(r), 0, (5, 6, 2)) for i, r in enumerate(rows)])


def numbers(backbone, lengths) -> list[torch.Tensor]:
    """Losses, their gradients, and the states without gradients (the remembered prompt)."""
    leaves, batch = prompt(), batch_of(lengths)
    losses = HEAD.losses(backbone, batch, prompt=leaves)
    grads = torch.autograd.grad(losses.sum(), [leaves.prefix, leaves.offsets])
    with torch.no_grad():
        states = backbone(batch, leaves, reads="states")
    return [losses, *grads, states]


SLOW = {"marks": pytest.mark.slow}  # a minute of g++ each


@NEEDS_COMPILER
@pytest.mark.parametrize(
    ("model", "more", "tolerance"),
    [
        ("tiny_llama", {"dtype": "fp32", "checkpointing": True}, 1e-5),
        pytest.param("tiny_llama", {"dtype": "fp32", "quantization": "int8"}, 1e-5, **SLOW),
        pytest.param("tiny_llama", {"dtype": "bf16"}, 0.03, **SLOW),
        # Compiled or not, its gradients are 2e-5 from those in fp64.
        pytest.param("tiny_t5", {"dtype": "fp32"}, 5e-5, **SLOW),
    ],
)
def test_the_same_numbers_from_one_compilation(request, model, more, tolerance):
    folder = request.getfixturevalue(model)
    plain, fast = (built(folder, compile=on, **more) for on in (False, True))
    torch.compiler.reset()
    graphs = []
    for lengths in BATCHES:
        for got, want in zip(numbers(fast, lengths), numbers(plain, lengths), strict=True):
            assert (got - want).abs().max() <= tolerance * want.abs().max().clamp(min=1)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert set(graphs[1:]) == {graphs[1]}, "a batch was compiled anew"


def in_shards(path: str, out: str, compile: bool, rank: dict) -> None:
    """One rank: the numbers of two batches from blocks that compute themselves again, compiled or
    not, and from plain ones; and what says that the blocks are wrapped."""
    os.environ |= rank
    from accept_llm.engines.fsdp2 import Fsdp2Engine

    torch.set_num_threads(1)
    engine, found = Fsdp2Engine(), []
    for on in (True, False):
        spec = FolderModel(kind="folder", path=path, dtype="fp32", checkpointing=on)
        spec = spec.model_copy(update={"compile": on and compile})
        backbone = engine.load_backbone(spec, info_of(Path(path)), layout="packed")
        found.append([x for lengths in BATCHES[:2] for x in numbers(backbone, lengths)])
        if on:
            wrapped = [
                isinstance(block.forward, partial) for block in backbone.module.lm.model.layers
            ]
    if engine.rank == 0:
        graphs = counters["stats"]["unique_graphs"]
        torch.save({"found": found, "wrapped": wrapped, "graphs": graphs}, out)
    engine.close()


@pytest.mark.parametrize(
    "compile", [False, pytest.param(True, marks=[NEEDS_COMPILER, pytest.mark.slow])]
)
def test_checkpointed_and_compiled_in_shards(tmp_path, tiny_llama, compile):
    """FSDP2 gives blocks another class; they are found, and give one process's numbers."""
    out = tmp_path / "found.pt"
    ranks = start_ranks(tiny_llama, count=2, target=in_shards, arguments=(str(out), compile))
    assert finish(*ranks, seconds=500) == [0, 0]
    saved = torch.load(out)
    assert saved["wrapped"] == [True, True]
    assert (saved["graphs"] > 0) is compile
    plain = built(tiny_llama, compile=False, dtype="fp32")
    one = [x for lengths in BATCHES[:2] for x in numbers(plain, lengths)]
    for side in saved["found"]:
        for got, want in zip(side, one, strict=True):
            close(got, want)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["model.layout=packed_flex"], "compile: got true; allowed with layout packed or padded"),
        (
            ["model.quantization=bnb-nf4"],
            "compile: got true; allowed with quantization null",
        ),
    ],
)
def test_what_cannot_be_compiled_is_refused(tmp_path, tiny_llama, changes, said):
    with pytest.raises(RecipeError, match=f"model.{said}"):
        load_recipe(write_recipe(tmp_path, tiny_llama), ["model.compile=true", *changes])


def test_without_a_compiler_or_under_zero3_it_is_refused(tmp_path, tiny_llama, monkeypatch):
    recipe, _ = load_recipe(write_recipe(tmp_path, tiny_llama), ["model.compile=true"])
    able = ", ".join(k for k, f in ENGINES.items() if f.is_local and f.compiles)
    with pytest.raises(RecipeError, match=f"got true; allowed under {able}"):
        prepare_training(recipe, "zero3", resume=False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    said = "model.compile: got true, but there is no no-such-compiler; allowed: false, or with"
    with pytest.raises(RecipeError, match=said):
        prepare_training(recipe, "fsdp2", resume=False)
