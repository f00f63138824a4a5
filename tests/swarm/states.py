"""What a model computes under one engine: `states.py RECIPE ENGINE OUT` writes a safetensors file
of states, logits, log-likelihoods, written tokens, and the gradients of the prompt."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from accept_llm.backbones.base import Generation
from accept_llm.checks import prepare
from accept_llm.data.batches import IGNORED, collate
from accept_llm.engines.base import opened_engine
from accept_llm.methods.base import Composed
from accept_llm.recipe.recipe import load_recipe
from accept_llm.training.loading import load

ROWS = 6


def on_leaves(prompt: Composed) -> Composed:
    """Away from the start, where a prompt's offsets are zero; leaves that take gradients."""
    draw = torch.Generator().manual_seed(0)
    parts = (p.detach() for p in (prompt.prefix, prompt.offsets) if p is not None)
    noise = (p + 0.1 * torch.randn(p.shape, generator=draw) for p in parts)
    return Composed(*(p.requires_grad_() for p in noise))


def main(path: str, kind: str, out: str) -> None:
    recipe, _ = load_recipe(path)
    prepared = prepare(recipe, kind)
    with opened_engine(kind, recipe.engine) as engine:
        loaded = load(prepared, engine)
        backbone = loaded.model.backbone
        batch = collate(loaded.encode(prepared.rows.train)[:ROWS])
        first = loaded.model.method.compose()
        found: dict[str, torch.Tensor] = {}
        owner = torch.arange(ROWS).repeat_interleave(2)
        answers = torch.tensor([[5, 9, 2], [7, 2, IGNORED]]).repeat(ROWS, 1)
        for what in ("states", "logits", "say"):
            leaves = on_leaves(first)
            if what == "say":
                value = backbone.log_likelihood(batch, leaves, answers=answers, owner=owner)
            else:
                value = backbone(batch, leaves, reads=what)
            weights = torch.linspace(-1, 1, value.numel()).view_as(value)
            (value * weights).sum().backward()
            assert leaves.prefix is not None
            assert leaves.offsets is not None
            found[what] = value.detach()
            found[f"{what}.prefix"], found[f"{what}.offsets"] = (
                leaves.prefix.grad,
                leaves.offsets.grad,
            )
        generated = backbone.generate(batch, leaves, how=Generation(limit=5, beams=1, end=-1))
        found["written"] = torch.tensor(generated)
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
