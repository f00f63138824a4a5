"""Builds frozen models: whole on one device, or empty and then filled slice by slice when
an engine has cut the parameters up.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from accept_llm.backbones.base import Backbone, Layout
from accept_llm.backbones.causal import CausalBackbone, CausalRoot
from accept_llm.backbones.compiled import compile_parts
from accept_llm.backbones.empty import auto_class, make_empty
from accept_llm.backbones.families import check_computes, check_held
from accept_llm.backbones.int8 import fill_int8, use_int8
from accept_llm.backbones.linear import needs_fp32, with_fp32_products
from accept_llm.backbones.names import ModelCheckpoint
from accept_llm.backbones.seq2seq import Seq2SeqBackbone, Seq2SeqRoot
from accept_llm.backbones.slices import Checkpoint
from accept_llm.errors import RecipeError
from accept_llm.models.folder import CONFIG, ModelInfo
from accept_llm.recipe.model import ModelSpec, Quantization

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
SHOWN = 5  # wrong weights listed in an error


@dataclass(frozen=True)
class Sharding:
    """How an engine cuts up a model that has no memory yet, and what becomes of the pieces."""

    shard: Callable[[nn.Module, list[nn.Module]], None]
    """Takes the root, and the parts of it that are gathered one by one."""
    home: torch.device | None = None
    """Where the pieces lie; None: on the device that computes."""
    dtype: str | None = None
    """In which they are computed; None: as they are held."""


UNSHARDED = Sharding(lambda root, parts: None)


def load_backbone(
    spec: ModelSpec,
    info: ModelInfo,
    *,
    layout: Layout,
    device: torch.device,
    sharding: Sharding | None,
) -> Backbone:
    """The model that a recipe names: in pieces, or whole."""
    how: dict[str, Any] = {"dtype": spec.dtype, "quantization": spec.quantization}
    if sharding is None:
        backbone = load_whole(info, layout=layout, device=device, **how)
    else:
        backbone = load_sharded(info, layout=layout, device=device, sharding=sharding, **how)
    lm: Any = backbone.module.lm
    if spec.compile:  # first: what a block computes again for the backward pass is compiled too
        compile_parts(lm, _layers(lm))
    if spec.checkpointing:
        checkpoint_blocks(lm)
    if isinstance(backbone, CausalBackbone):
        check_held(backbone, info, device=device)
    if not spec.compile:
        check_computes(backbone, info, device=device)
    return backbone


def load_whole(
    info: ModelInfo,
    *,
    dtype: str,
    layout: Layout,
    device: torch.device,
    quantization: Quantization | None = None,
) -> Backbone:
    """The model on one device, through transformers' own loader; `quantization` as ModelSpec
    has it."""
    if quantization == "int8":
        return load_sharded(
            info,
            dtype=dtype,
            layout=layout,
            device=device,
            sharding=UNSHARDED,
            quantization=quantization,
        )
    more = _bitsandbytes(quantization, DTYPES[dtype], device=device) if quantization else {}
    # Both show what is wrong before a weight is read.
    ModelCheckpoint(Checkpoint(info.files), make_empty(info, DTYPES[dtype]))
    with _without_adapter(info) as folder:
        loaded: Any = auto_class(info).from_pretrained(
            folder,
            dtype=DTYPES[dtype],
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are said below, with the file's shape
            **more,
        )
    lm, report = loaded
    _refuse_shapes(info, [tuple(found) for found in report["mismatched_keys"]])
    _refuse_missing(
        lm, info, missing=report["missing_keys"]
    )  # transformers would draw them at random
    return _freeze(_root(lm, info).to(device), info, device=device, dtype=dtype, layout=layout)


def load_sharded(
    info: ModelInfo,
    *,
    dtype: str,
    layout: Layout,
    device: torch.device,
    sharding: Sharding,
    quantization: Quantization | None = None,
) -> Backbone:
    """Built without memory, cut up, then filled: every rank reads only its own slices of the
    files, and quantises them itself."""
    assert quantization in (None, "int8"), quantization  # others: engines/check.py
    lm = make_empty(info, DTYPES[dtype])
    checkpoint = ModelCheckpoint(Checkpoint(info.files), lm)
    _refuse_missing(lm, info, missing=_tie(lm, checkpoint))
    if quantization == "int8":
        use_int8(lm)
    root = _root(lm, info)
    root.requires_grad_(False)
    sharding.shard(root, _parts(lm))
    _materialise(root, device, home=sharding.home or device)
    _fill(lm, info, checkpoint=checkpoint)
    return _freeze(root, info, device=device, dtype=sharding.dtype or dtype, layout=layout)


@contextmanager
def _without_adapter(info: ModelInfo) -> Iterator[Path]:
    """The model's folder as from_pretrained may see it: it would put a LoRA on that lies there."""
    if not info.has_adapter:
        yield info.folder
        return
    with TemporaryDirectory() as folder:
        for file in info.folder.iterdir():
            if not file.name.startswith("adapter_"):
                (Path(folder) / file.name).symlink_to(file.resolve())
        yield Path(folder)


def _bitsandbytes(quantization: str, dtype: torch.dtype, *, device: torch.device) -> dict[str, Any]:
    """from_pretrained's arguments for bitsandbytes' weights."""
    from transformers import BitsAndBytesConfig

    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    config = BitsAndBytesConfig(**(four if quantization == "bnb-nf4" else {"load_in_8bit": True}))
    return {"quantization_config": config, "device_map": {"": device}}


def checkpoint_blocks(lm: Any) -> None:
    """Makes each block keep only its input for the backward pass, and compute its output anew.

    transformers' own checkpointing works in training mode only, where T5 would drop out.
    """
    for block in _blocks(lm):
        block.forward = partial(_run_checkpointed, block.forward)


def _run_checkpointed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def _blocks(lm: Any) -> list[Any]:
    """The repeated layers, by the class names that transformers declares; fully_shard gives each a
    subclass with another name."""
    names = set(lm._no_split_modules or [])
    return [m for m in lm.modules() if any(cls.__name__ in names for cls in type(m).__mro__)]


def _layers(lm: Any) -> list[nn.Module]:
    """The blocks; of T5 the attentions and feed-forward parts that its blocks list, which are
    gathered one by one: a decoder block of T5-XXL has 0.5 GB."""
    blocks = _blocks(lm)
    if lm.config.is_encoder_decoder:
        return [part for block in blocks for part in block.layer]
    return blocks


def _root(lm: Any, info: ModelInfo) -> nn.Module:
    return Seq2SeqRoot(lm) if info.architecture == "seq2seq" else CausalRoot(lm)


def _freeze(
    root: Any, info: ModelInfo, *, device: torch.device, dtype: str, layout: Layout
) -> Backbone:
    root.requires_grad_(False).eval()
    if needs_fp32(device, DTYPES[dtype]):
        with_fp32_products(root)
    config = root.lm.config
    if info.architecture == "seq2seq":
        return Seq2SeqBackbone(root, config=config, dtype=DTYPES[dtype])
    return CausalBackbone(root, config=config, dtype=DTYPES[dtype], layout=layout)


# --- sharded ----------------------------------------------------------------------------


def _tie(lm: Any, checkpoint: ModelCheckpoint) -> set[str]:
    """Ties what is one weight, as from_pretrained does: what is stored counts, and of two
    stored weights whether they are equal. Returns the names of the weights that are missing."""
    missing = set(dict(lm.named_parameters(remove_duplicate=False))) - checkpoint.names
    families: dict[str, list[str]] = {}
    for target, source in lm.all_tied_weights_keys.items():
        families.setdefault(source, [source]).append(target)
    for family in families.values():
        first, *others = [name for name in family if name in checkpoint.names] or [""]
        # transformers cannot compare weights that have no memory yet, and would not tie them.
        missing |= {name for name in others if checkpoint.same(first, name)}
    lm.tie_weights(missing_keys=missing, recompute_mapping=False)  # takes what it ties out of it
    for stack in (lm.encoder, lm.decoder) if lm.config.is_encoder_decoder else ():
        if stack.embed_tokens.weight is lm.shared.weight:
            # One weight in three modules; sharding gathers it only where its module is called.
            stack.set_input_embeddings(lm.shared)
    return missing


def _parts(lm: Any) -> list[nn.Module]:
    """What is gathered by itself: the repeated layers, the embedding and the LM head. A tied pair
    stays with the root, in one group."""
    layers = _layers(lm)
    ends = [lm.get_input_embeddings(), lm.get_output_embeddings()]
    return layers if ends[0].weight is ends[1].weight else [*layers, *ends]


def homes_of(root: nn.Module) -> dict[Tensor, list[tuple[nn.Module, str]]]:
    """The modules that hold each parameter, and its name there."""
    homes: dict[Tensor, list[tuple[nn.Module, str]]] = {}
    for module in root.modules():
        for name, parameter in module.named_parameters(recurse=False):
            homes.setdefault(parameter, []).append((module, name))
    return homes


def _materialise(root: nn.Module, device: torch.device, *, home: torch.device) -> None:
    """Gives every parameter that has none memory at `home`, shared where it was shared; buffers
    keep their numbers and go to `device`."""
    buffers = {name: buffer.to(device) for name, buffer in root.named_buffers()}
    homes = homes_of(root)
    if not any(hasattr(parameter, "ds_tensor") for parameter in homes):
        root.to_empty(device=home)
    for (first, name), *others in homes.values():
        for module, other in others:  # FSDP2 has done it itself
            setattr(module, other, getattr(first, name))
    for name, buffer in buffers.items():
        parent, _, last = name.rpartition(".")
        setattr(root.get_submodule(parent), last, buffer)


def _fill(lm: nn.Module, info: ModelInfo, *, checkpoint: ModelCheckpoint) -> None:
    """Reads this rank's rows of every stored parameter and buffer, once for a tied weight."""
    filled: set[int] = set()
    tensors = lm.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        if name not in checkpoint.names or id(tensor) in filled:
            continue
        filled.add(id(tensor))
        shape = checkpoint.shape(name)
        made = tuple(getattr(tensor, "ds_shape", tensor.shape))
        if shape != made:
            _refuse_shapes(info, [(name, shape, made)])
        scale = tensors.get(name.removesuffix("weight") + "scale")
        piece = getattr(tensor, "ds_tensor", None)
        if piece is not None:
            first = tensor.ds_zero_partition_rank * len(piece)
            checkpoint.read_flat(name, first, out=piece)
            continue
        start, rows = _own_rows(tensor)
        if scale is None:
            checkpoint.read_rows(name, start, out=rows)
        else:
            fill_int8(
                rows, _own_rows(scale)[1], read=partial(checkpoint.read_rows, name), start=start
            )


def local_shard(parameter: Any) -> Tensor:
    """The part of a parameter that this process itself holds."""
    if hasattr(parameter, "ds_tensor"):  # DeepSpeed's piece, which is flat
        return parameter.ds_tensor
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def _own_rows(tensor: Tensor) -> tuple[int, Tensor]:
    """The first row that this rank holds, and its rows; a plain tensor is held whole."""
    from torch.distributed.tensor import DTensor, Shard

    if not isinstance(tensor, DTensor):
        return 0, tensor.view(-1, *tensor.shape[1:])  # a scalar is one row
    *copies, rows = tensor.placements  # with hybrid sharding the same rows lie in several groups
    assert rows == Shard(0), tensor.placements
    assert all(placement.is_replicate() for placement in copies), tensor.placements
    mesh, last = tensor.device_mesh, len(copies)
    local = tensor.to_local()
    most = -(-len(tensor) // mesh.size(last))  # of a rank; the last ones may have less
    start = min(len(tensor), mesh.get_local_rank(last) * most)
    assert len(local) == min(most, len(tensor) - start), (local.shape, tensor.shape, start)
    return start, local


def _refuse_shapes(
    info: ModelInfo, wrong: Sequence[tuple[str, Sequence[int], Sequence[int]]]
) -> None:
    """RecipeError for weights, each with its shape in the file and in the model."""
    if wrong:
        raise RecipeError(
            [
                f"model: {info.folder} has {name} as {list(stored)}, but its {CONFIG} makes it "
                f"{list(made)}; they must agree"
                for name, stored, made in sorted(wrong)[:SHOWN]
            ]
        )


def _refuse_missing(lm: nn.Module, info: ModelInfo, *, missing: Iterable[str]) -> None:
    names = sorted(missing)
    if names:
        raise RecipeError(
            [
                f"model: {info.folder} lacks {len(names)} weights of {type(lm).__name__} "
                f"({', '.join(names[:3])}, ...); allowed: a checkpoint with this model's names"
            ]
        )
