"""torch.compile for the repeated parts of a frozen model: norms, products, rotations and residuals,
around the attention, which stays as it is.

A packed row's groups differ from batch to batch, and tracing them would compile each batch anew.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from accept_llm.backbones.packed import NAME, packed_attention


def compile_parts(lm: Any, parts: list[nn.Module]) -> None:
    """Compiles the forward of each part at its first call, for batches of any size.

    Not the module: what FSDP2 does before and after the forward then stays outside. A model that
    writes does so uncompiled: its cache grows by a token each time.
    """
    from transformers import AttentionInterface

    assert parts, type(lm)
    AttentionInterface.register(NAME, torch.compiler.disable(packed_attention))
    for part in parts:
        part.forward = torch.compile(part.forward, dynamic=True)
    lm.generate = partial(_uncompiled, lm.generate)


def _uncompiled(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with torch.compiler.set_stance("force_eager"):
        return function(*args, **kwargs)
