"""Batches, prompts and references for tests of frozen models."""

from pathlib import Path

import torch
from torch import Tensor

from accept_llm.backbones.causal import CausalBackbone, CausalRoot
from accept_llm.data.batches import Batch, collate
from accept_llm.data.encoding import Encoded
from accept_llm.methods.base import Composed
from accept_llm.models.folder import check_folder

CPU = torch.device("cpu")


LENGTHS = (5, 1, 9, 2, 7)


M, L = 6, 10


def prompt_of(hidden: int, *, prefix: bool = True, offsets: bool = True) -> Composed:
    draw = torch.Generator().manual_seed(4)
    parts = [torch.randn(n, hidden, generator=draw).requires_grad_() for n in (M, L)]
    return Composed(parts[0] if prefix else None, parts[1] if offsets else None)


def alone(lm, batch: Batch, prompt: Composed) -> Tensor:
    """The reference: every example by itself, unpadded, through plain transformers."""
    states = []
    for tokens in batch.tokens.split(batch.lengths.tolist()):
        x = lm.get_input_embeddings()(tokens)
        if prompt.offsets is not None:
            x = x + prompt.offsets[: len(tokens)]
        if prompt.prefix is not None:
            x = torch.cat([prompt.prefix, x])
        states.append(lm.base_model(inputs_embeds=x[None]).last_hidden_state[0, -1])
    return torch.stack(states)


def wrap(lm, layout) -> CausalBackbone:
    lm.requires_grad_(False).eval()
    root = CausalRoot(lm)
    return CausalBackbone(root, config=lm.config, dtype=torch.float32, layout=layout)


def close(a: Tensor, b: Tensor) -> None:
    """1e-5 of the largest number."""
    assert (a - b).abs().max() <= 1e-5 * b.abs().max().clamp(min=1)


def gradients(states: Tensor, prompt: Composed) -> list[Tensor]:
    inputs = [x for x in (prompt.prefix, prompt.offsets) if x is not None]
    weights = torch.linspace(-1, 1, states.numel()).view_as(states)
    return list(torch.autograd.grad((states * weights).sum(), inputs)) if inputs else []


def info_of(folder: Path):
    info, problems = check_folder(folder)
    assert info is not None, problems
    return info


ANSWERS = ((7, 2), (3, 4, 5, 6, 2), (2,), (9, 8), (30, 31, 2))


def answered_batch(vocabulary: int, answers=ANSWERS) -> Batch:
    draw = torch.Generator().manual_seed(3)
    rows = [torch.randint(3, vocabulary, (n,), generator=draw).tolist() for n in LENGTHS]
    labels = (0, 1, 2, 1, 0)
    return collate(
        [
            Encoded(str(i), tuple(row), label, tuple(answer))
            for i, (row, label, answer) in enumerate(zip(rows, labels, answers, strict=True))
        ]
    )
