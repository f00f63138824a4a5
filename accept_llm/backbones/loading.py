"""Builds frozen causal models: whole on one device, or empty and then filled slice by slice
when `shard` has cut the parameters up.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from accept_llm.backbones.causal import CausalBackbone, CausalRoot, Layout
from accept_llm.models import ModelInfo
from accept_llm.recipe_errors import RecipeError

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def load_whole(
    info: ModelInfo, *, dtype: str, layout: Layout, device: torch.device
) -> CausalBackbone:
    """The model on one device, through transformers' own loader."""
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(
        info.folder, dtype=DTYPES[dtype], attn_implementation="sdpa"
    )
    return _frozen(CausalRoot(lm).to(device), lm.config, dtype=dtype, layout=layout)


def load_sharded(
    info: ModelInfo,
    *,
    dtype: str,
    layout: Layout,
    device: torch.device,
    shard: Callable[[nn.Module, list[nn.Module]], None],
) -> CausalBackbone:
    """Built without memory, cut up by `shard(root, blocks)`, then filled: every rank reads
    only its own slices of the files."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(info.folder)
    # Buffers (rotary frequencies) are made for real: no checkpoint holds them.
    with init_empty_weights(include_buffers=False):
        lm = AutoModelForCausalLM.from_config(
            config, dtype=DTYPES[dtype], attn_implementation="sdpa"
        )
    lm.tie_weights()
    root = CausalRoot(lm)
    root.requires_grad_(False)
    shard(root, _blocks(lm))
    buffers = {name: buffer.to(device) for name, buffer in root.named_buffers()}
    root.to_empty(device=device)
    for name, buffer in buffers.items():
        root.get_buffer(name).copy_(buffer)
    _fill(lm, info)
    return _frozen(root, config, dtype=dtype, layout=layout)


def _blocks(lm: Any) -> list[nn.Module]:
    """The repeated layers, by the class names that transformers itself declares."""
    names = set(lm._no_split_modules or [])
    return [module for module in lm.modules() if type(module).__name__ in names]


def _fill(lm: nn.Module, info: ModelInfo) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint import HuggingFaceStorageReader

    reader = HuggingFaceStorageReader(str(info.folder))
    stored = set(reader.read_metadata().state_dict_metadata)
    wanted = lm.state_dict()
    tied = {id(p) for name, p in lm.named_parameters(remove_duplicate=False) if name in stored}
    missing = sorted(
        name
        for name, p in lm.named_parameters(remove_duplicate=False)
        if name not in stored and id(p) not in tied
    )
    if missing:
        raise RecipeError(
            [
                f"model: {info.folder} lacks {len(missing)} weights of {type(lm).__name__} "
                f"({', '.join(missing[:3])} ...); allowed: a checkpoint with this model's names"
            ]
        )
    dcp.load({name: t for name, t in wanted.items() if name in stored}, storage_reader=reader)


def _frozen(root: nn.Module, config: Any, *, dtype: str, layout: Layout) -> CausalBackbone:
    root.requires_grad_(False).eval()
    return CausalBackbone(root, config=config, dtype=DTYPES[dtype], layout=layout)
