"""Activation checkpointing: the same numbers from fewer kept ones."""

import pytest
import torch
from support.backbones import CPU, close, info_of, prompt_of
from support.backbones import answered_batch as batch_of

from accept_llm.backbones.loading import checkpoint_blocks, load_whole
from accept_llm.heads import Generate

HEAD = Generate(max_new_tokens=8, num_beams=1, end=2)


def losses_and_gradients(backbone):
    """The loss of a batch, its gradients, and how many bytes wait for the backward pass."""
    prompt = prompt_of(64)
    kept: dict[int, int] = {}

    def keep(x):
        if x.requires_grad:  # weights and indices are there anyway
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        losses = HEAD.losses(backbone, batch_of(90), prompt=prompt)
    grads = torch.autograd.grad(losses.sum(), [prompt.prefix, prompt.offsets])
    return losses, grads, sum(kept.values())


@pytest.mark.parametrize("model", ["tiny_t5", "tiny_llama"])
def test_the_same_gradients_from_less(request, model):
    info = info_of(request.getfixturevalue(model))
    layout = "padded" if info.architecture == "seq2seq" else "packed"
    backbones = [load_whole(info, dtype="fp32", layout=layout, device=CPU) for _ in range(2)]
    checkpoint_blocks(backbones[1].module.lm)
    runs = [losses_and_gradients(backbone) for backbone in backbones]
    (plain, grads, whole), (again, same, little) = runs
    close(again, plain)
    for a, b in zip(same, grads, strict=True):
        close(a, b)
    assert little < 0.6 * whole
