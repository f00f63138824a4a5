"""What a model folder must hold, read without torch: config, tokenizer, safetensors headers.

It reports every problem of a folder at once, and loads no weight: of a safetensors file only
the header is read, and for a fingerprint the first numbers of each tensor. It knows neither
recipes nor where a folder came from.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

from accept_llm.errors import did_you_mean, short
from accept_llm.models.config import SEQ2SEQ, read_sizes, t5_problems
from accept_llm.models.headers import FLOATS, StoredTensor, read_header
from accept_llm.models.tokenizer_files import TOKENIZERS, tokenizer_problems
from accept_llm.recipe.budget import LinearSize
from accept_llm.storage import read_json

CONFIG = "config.json"
LORA = "adapter_config.json"  # PEFT's
WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_EMBEDDINGS = (
    *("embed_tokens.weight", "shared.weight", "wte.weight"),
    *("word_embeddings.weight", "embed_in.weight"),
)


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a local model before any weight is read."""

    folder: Path
    model_type: str
    hidden_size: int
    max_positions: int | None
    vocab_size: int
    layers: int
    files: tuple[Path, ...]
    """The safetensors files, in the order of their names."""
    config: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """config.json."""
    linears: tuple[LinearSize, ...] = field(default=(), compare=False, repr=False)
    """The linear layers, layer by layer."""
    rope: str = field(default="", compare=False)
    """The rope_type that allows no more positions; see rope.py."""

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter of PEFT lies beside the weights, which nothing here reads."""
        return (self.folder / LORA).is_file()

    @property
    def architecture(self) -> Literal["causal", "seq2seq"]:
        return "seq2seq" if self.model_type in SEQ2SEQ else "causal"


def check_folder(folder: Path) -> tuple[ModelInfo | None, list[str]]:
    """The model in `folder`, or None and one line for each problem (without a field path)."""
    config, problems = _read_config(folder)
    sizes, more = read_sizes(config, folder / CONFIG) if config else ({}, [])
    problems += more
    problems += tokenizer_problems(folder, sizes.get("vocab_size"))
    if sizes.get("model_type") in SEQ2SEQ:
        problems += [f"{folder / CONFIG} {line}" for line in t5_problems(config, sizes)]
    files, more = weight_files(folder)
    problems += more
    stored: dict[str, StoredTensor] = {}
    for file in files:
        try:
            stored |= read_header(file)
        except ValueError as error:
            problems.append(str(error))
    problems += _dtype_problems(stored)
    shapes = {name: list(tensor.shape) for name, tensor in stored.items()}
    if not any("word_embed_proj_dim" in line for line in problems):
        problems += _embedding_problems(shapes, sizes)
    problems += _layer_problems(shapes, sizes, config=config)
    problems += _width_problems(shapes, config)
    if problems:
        return None, problems
    linears = linear_sizes(shapes, sizes["model_type"])
    return ModelInfo(folder=folder, files=files, config=config, linears=linears, **sizes), []


def check_config(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The config.json of a folder that may hold nothing else, and what is wrong with it and with a
    tokenizer beside it."""
    config, problems = _read_config(folder)
    sizes, more = read_sizes(config, folder / CONFIG) if config else ({}, [])
    problems += more
    if any((folder / name).is_file() for name in TOKENIZERS):
        problems += tokenizer_problems(folder, sizes.get("vocab_size"))
    return config, problems


def folder_is_complete(folder: Path) -> bool:
    """Whether config, tokenizer and all named weights are there (a Hub snapshot may be partial)."""
    has_tokenizer = any((folder / name).is_file() for name in TOKENIZERS)
    return (folder / CONFIG).is_file() and has_tokenizer and not weight_files(folder)[1]


# --- config.json ------------------------------------------------------------------------


def _read_config(folder: Path) -> tuple[dict[str, Any], list[str]]:
    path = folder / CONFIG
    if path.is_file():
        try:
            return read_json(path), []
        except ValueError as error:
            return {}, [str(error)]
    if (folder / LORA).is_file():
        return {}, [f"{folder} has no {CONFIG}; an adapter is there; needed: its base model"]
    return {}, [f"{folder} has no {CONFIG}; allowed: a folder as save_pretrained writes it"]


# --- weights ----------------------------------------------------------------------------


def weight_files(folder: Path) -> tuple[tuple[Path, ...], list[str]]:
    """The safetensors files of a folder, found as transformers finds them, and what is wrong."""
    if (folder / WHOLE).is_file():
        return (folder / WHOLE,), []
    if (folder / INDEX).is_file():
        return _indexed_files(folder)
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if others:
        return (), [
            f"{folder} has {', '.join(others[:3])} but neither {WHOLE} nor {INDEX}; needed: one"
        ]
    if any(folder.glob("pytorch_model*.bin")):
        return (), [
            f"{folder} has weights only as pytorch_model.bin; needed: safetensors (load it with "
            "transformers and save_pretrained once)"
        ]
    return (), [f"{folder} has no weights; needed: {WHOLE}, or several files with {INDEX}"]


def _indexed_files(folder: Path) -> tuple[tuple[Path, ...], list[str]]:
    try:
        index = read_json(folder / INDEX)
    except ValueError as error:
        return (), [str(error)]
    names, notes = index.get("weight_map"), index.get("metadata")
    if not isinstance(names, dict) or not names:
        return (), [f"{folder / INDEX} has no weight_map"]
    if not isinstance(notes, dict):
        return (), [
            f"{folder / INDEX} has metadata {short(notes)}; needed: a mapping, such as {{}}"
        ]
    foreign = [name for name in names.values() if not isinstance(name, str) or "/" in name]
    if foreign:
        got = f"{folder / INDEX} names {short(foreign[0])} in its weight_map"
        return (), [f"{got}; needed: files beside it"]
    files = [folder / name for name in sorted(set(names.values()))]
    missing = [path.name for path in files if not path.is_file()]
    problems = []
    if missing:
        problems.append(
            f"{folder / INDEX} names {len(missing)} of {len(files)} files that are not there "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); copy them as well"
        )
    return tuple(path for path in files if path.is_file()), problems


_NOT_LINEAR = ("embed", "wte.", "wpe.", "shared.", "relative_attention_bias", "lm_head")
_TRANSPOSED = ("gpt2",)  # whose layers store (inputs, outputs)


def linear_sizes(shapes: Mapping[str, Sequence[int]], model_type: str) -> tuple[LinearSize, ...]:
    """The linear layers of a checkpoint, by the names of its matrices, layer by layer."""
    found = []
    for name in sorted(shapes, key=_by_number):
        shape = shapes[name]
        is_linear = name.endswith(".weight") and len(shape) == 2
        if is_linear and not any(part in name for part in _NOT_LINEAR):
            outputs, inputs = reversed(shape) if model_type in _TRANSPOSED else shape
            found.append(LinearSize(name.removesuffix(".weight"), inputs, outputs))
    return tuple(found)


def _by_number(name: str) -> list[tuple[bool, int, str]]:
    """Sorts layers.2 before layers.10."""
    parts = name.split(".")
    numbers = [int(part) if part.isdecimal() and len(part) < 10 else -1 for part in parts]
    return [(n >= 0, max(n, 0), part) for n, part in zip(numbers, parts, strict=True)]


def fingerprint(files: Sequence[Path]) -> str:
    """SHA-256 over the first numbers of every weight, as bf16, so that a model and its copies in
    other dtypes and files have the same, and what was trained further has another. Vocabularies
    are left out: where two are tied, some files have one and some both."""
    import numpy as np

    found = {name: stored for file in files for name, stored in read_header(file).items()}
    digest = hashlib.sha256()
    for name, stored in sorted(found.items()):
        if stored.dtype not in _NUMPY or not name.endswith(".weight") or _is_vocabulary(name):
            continue
        count = min(prod(stored.shape), _FIRST)
        raw = np.fromfile(stored.file, _NUMPY[stored.dtype], count, offset=stored.start)
        bits = raw.astype(np.uint32) << 16 if stored.dtype == "BF16" else raw.astype("<f4")
        bits = bits.view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # to nearest, ties to even
        digest.update(rounded.astype("<u2").tobytes())
    return digest.hexdigest()


_NUMPY = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_FIRST = 256  # numbers of each weight


def _is_vocabulary(name: str) -> bool:
    return name.endswith((*_EMBEDDINGS, "lm_head.weight", "embed_out.weight"))


def _dtype_problems(stored: Mapping[str, StoredTensor]) -> list[str]:
    """Weights of numbers that mean nothing without scales. Masks and places may be whole numbers,
    and some models have them."""
    wrong = {
        name: tensor
        for name, tensor in stored.items()
        if tensor.dtype not in FLOATS
        and (name.endswith(".weight") or tensor.dtype.startswith(("F8", "F6", "F4", "C")))
    }
    if not wrong:
        return []
    name, tensor = next(iter(wrong.items()))
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    got = f"{tensor.file}: {name} has dtype {tensor.dtype}{more}"
    return [f"{got}; allowed: {', '.join(FLOATS)}"]


def _embedding_problems(shapes: dict[str, list[int]], sizes: dict[str, Any]) -> list[str]:
    if not sizes.get("hidden_size") or not sizes.get("vocab_size"):
        return []
    config = [sizes["vocab_size"], sizes["hidden_size"]]
    return [
        f"{name} is {shape}, but {CONFIG} says {config} (vocab_size, hidden_size); they must agree"
        for name, shape in shapes.items()
        if name.endswith(_EMBEDDINGS) and shape != config
    ]


# Types whose dense layers are all as wide as intermediate_size.
_GATED = (
    *("cohere", "cohere2", "gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral"),
    *("olmo", "olmo2", "qwen2", "qwen3", "smollm3", "stablelm"),
)


def _width_problems(shapes: Mapping[str, Sequence[int]], config: Mapping[str, Any]) -> list[str]:
    width = config.get("intermediate_size")
    if width is None or config.get("model_type") not in _GATED:
        return []
    for name, shape in shapes.items():
        if name.endswith((".mlp.gate_proj.weight", ".mlp.up_proj.weight")) and shape[:1] != [width]:
            got = f"{CONFIG}: intermediate_size: got {short(width)}"
            return [f"{got}, but {name} is {list(shape)}; they must agree"]
    return []


_OTHER_STACKS = ("vision", "visual", "audio")  # of models that read more than text
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d{1,9})\.")


def _layer_problems(
    shapes: Mapping[str, Any], sizes: Mapping[str, Any], *, config: Mapping[str, Any]
) -> Iterator[str]:
    """Lines where the config has more layers than the weights, or leaves some of them out. Names
    without a number count for nothing, and neither do the layers that predict further tokens, which
    transformers leaves out."""
    if not sizes.get("layers"):
        return
    further = config.get("num_nextn_predict_layers")
    further = further if isinstance(further, int) else 0
    stacks = {"": sizes["layers"]}
    if sizes["model_type"] in SEQ2SEQ:
        decoder = config.get("num_decoder_layers")
        stacks = {"encoder.": sizes["layers"], "decoder.": decoder or sizes["layers"]}
    for stack, said in stacks.items():
        own = [n for n in shapes if n.startswith(stack) and not any(o in n for o in _OTHER_STACKS)]
        numbers = map(_LAYER.search, own)
        found = max((int(number[1]) for number in numbers if number), default=-1) + 1
        if found and not said <= found <= said + further:
            what = f"{CONFIG} says {short(said)} {stack.strip('.') or 'hidden'} layers"
            yield f"{what}, and the weights have {found}; they must agree"


def closest(name: str, folder: Path) -> str:
    """A "did you mean" out of what lies in `folder`, or nothing."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return did_you_mean(name, names)
