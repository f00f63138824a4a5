"""Builds frozen causal models: whole on one device, or empty and then filled slice by slice
when `shard` has cut the parameters up.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from accept_llm.backbones.causal import CausalBackbone, CausalRoot, Layout
from accept_llm.models import ModelInfo
from accept_llm.recipe_errors import RecipeError

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
# Families whose attention takes our mask as it is (tests/test_backbones.py holds each to it).
PACKED = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "smollm3")


def check_layout(info: ModelInfo, *, layout: Layout, longest: int) -> None:
    """Refuses the packed layout where it could give other states than the padded one;
    `longest` is the prompt and the longest input together."""
    from transformers import AutoConfig

    if layout == "padded":
        return
    problem = ""
    window = getattr(AutoConfig.from_pretrained(info.folder), "sliding_window", None)
    if info.model_type not in PACKED:
        problem = f"allowed for {info.model_type}: padded (packed: {', '.join(PACKED)})"
    elif window is not None and window < longest:
        problem = (
            f"the model's attention window ({window}) is shorter than prompt and input "
            f"({longest}); allowed: padded, or a smaller task.max_length"
        )
    if problem:
        raise RecipeError([f"model.layout: got 'packed'; {problem}"])


def load_whole(
    info: ModelInfo, *, dtype: str, layout: Layout, device: torch.device
) -> CausalBackbone:
    """The model on one device, through transformers' own loader."""
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        info.folder, dtype=DTYPES[dtype], output_loading_info=True
    )
    lm, report = loaded
    _refuse_missing(lm, info, report["missing_keys"])  # transformers would draw them at random
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
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(info.folder)
    # Buffers (rotary frequencies) are made for real: no checkpoint holds them.
    with init_empty_weights(include_buffers=False):
        lm = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype])
    reader = HuggingFaceStorageReader(str(info.folder))
    stored = set(reader.read_metadata().state_dict_metadata)
    if not set(lm._tied_weights_keys or ()) <= stored:  # as transformers: what is stored counts
        lm.tie_weights()
    root = CausalRoot(lm)
    root.requires_grad_(False)
    shard(root, _blocks(lm))
    buffers = {name: buffer.to(device) for name, buffer in root.named_buffers()}
    root.to_empty(device=device)
    for name, buffer in buffers.items():
        root.get_buffer(name).copy_(buffer)
    _fill(lm, info, stored=stored, reader=reader)
    return _frozen(root, config, dtype=dtype, layout=layout)


def _blocks(lm: Any) -> list[nn.Module]:
    """What is gathered by itself: the repeated layers, by the class names that transformers
    declares, the embedding and the LM head. A tied pair stays with the root, in one group."""
    names = set(lm._no_split_modules or [])
    layers = [module for module in lm.modules() if type(module).__name__ in names]
    ends = [lm.get_input_embeddings(), lm.get_output_embeddings()]
    return layers if ends[0].weight is ends[1].weight else [*layers, *ends]


def _fill(lm: nn.Module, info: ModelInfo, *, stored: set[str], reader: Any) -> None:
    from torch.distributed.checkpoint.state_dict_loader import load

    named = dict(lm.named_parameters(remove_duplicate=False))
    filled = {id(p) for name, p in named.items() if name in stored}  # also under a tied name
    _refuse_missing(lm, info, [name for name, p in named.items() if id(p) not in filled])
    wanted = {name: t for name, t in lm.state_dict().items() if name in stored}
    load(wanted, storage_reader=reader)


def _refuse_missing(lm: nn.Module, info: ModelInfo, missing: Iterable[str]) -> None:
    names = sorted(missing)
    if names:
        raise RecipeError(
            [
                f"model: {info.folder} lacks {len(names)} weights of {type(lm).__name__} "
                f"({', '.join(names[:3])}, ...); allowed: a checkpoint with this model's names"
            ]
        )


def _frozen(root: nn.Module, config: Any, *, dtype: str, layout: Layout) -> CausalBackbone:
    root.requires_grad_(False).eval()
    return CausalBackbone(root, config=config, dtype=DTYPES[dtype], layout=layout)
