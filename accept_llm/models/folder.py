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
from accept_llm.models.headers import read_header, read_shapes
from accept_llm.models.tokenizer_files import TOKENIZERS, tokenizer_problems
from accept_llm.recipe.budget import LinearSize
from accept_llm.storage import read_json

CONFIG = "config.json"
LORA = "adapter_config.json"  # PEFT's
WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

SEQ2SEQ = ("t5",)  # T5, T5 v1.1 and Flan-T5: the encoder-decoders that can be used
# fmt: off
ENCODER_DECODERS = frozenset({
    "bart", "blenderbot", "encoder-decoder", "fsmt", "led", "longt5", "m2m_100", "marian", "mbart",
    "mt5", "pegasus", "prophetnet", "switch_transformers", "t5encoder", "t5gemma", "umt5",
    "whisper",
})
ENCODERS = frozenset({
    "albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "eurobert",
    "longformer", "modernbert", "mpnet", "nomic-bert", "roberta", "xlm-roberta",
})
# fmt: on

_SIZES = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "vocab_size": ("vocab_size",),
}
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")
_EMBEDDINGS = (
    *("embed_tokens.weight", "shared.weight", "wte.weight"),
    *("word_embeddings.weight", "embed_in.weight"),
)
_NEEDED = "a causal LM or T5 is needed"


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

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter of PEFT lies beside the weights, which nothing here reads."""
        return (self.folder / LORA).is_file()

    @property
    def architecture(self) -> Literal["causal", "seq2seq"]:
        return "seq2seq" if self.model_type in SEQ2SEQ else "causal"


def refuse_type(model_type: str) -> str | None:
    """Why a model of this type cannot be used; None when it is T5 or may be a causal LM."""
    if model_type in ENCODER_DECODERS:
        return f"got {model_type!r}, an encoder-decoder; {_NEEDED}"
    if model_type in ENCODERS:
        return f"got {model_type!r}, an encoder; {_NEEDED}"
    return None


def check_folder(folder: Path) -> tuple[ModelInfo | None, list[str]]:
    """The model in `folder`, or None and one line for each problem (without a field path)."""
    config, problems = _read_config(folder)
    sizes, more = _read_sizes(config, folder / CONFIG) if config else ({}, [])
    problems += more
    problems += tokenizer_problems(folder, sizes.get("vocab_size"))
    if sizes.get("model_type") in SEQ2SEQ:
        problems += [f"{folder / CONFIG} {line}" for line in _t5_problems(config, sizes)]
    files, more = weight_files(folder)
    problems += more
    shapes: dict[str, list[int]] = {}
    for file in files:
        try:
            shapes |= read_shapes(file)
        except ValueError as error:
            problems.append(str(error))
    if not any("word_embed_proj_dim" in line for line in problems):
        problems += _embedding_problems(shapes, sizes)
    problems += _layer_problems(shapes, sizes, config=config)
    if problems:
        return None, problems
    linears = linear_sizes(shapes, sizes["model_type"])
    return ModelInfo(folder=folder, files=files, config=config, linears=linears, **sizes), []


def check_config(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The config.json of a folder that may hold nothing else, and what is wrong with it and with a
    tokenizer beside it."""
    config, problems = _read_config(folder)
    sizes, more = _read_sizes(config, folder / CONFIG) if config else ({}, [])
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


def _read_sizes(config: dict[str, Any], path: Path) -> tuple[dict[str, Any], list[str]]:
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        return {}, [f"{path} has no model_type; a causal LM's is needed, such as 'llama', or t5"]
    refused = refuse_type(model_type)
    if refused is None and config.get("is_encoder_decoder") and model_type not in SEQ2SEQ:
        refused = f"got {model_type!r}, an encoder-decoder; {_NEEDED}"
    if refused:
        return {}, [f"{path}: model_type: {refused}"]
    problems = []
    if config.get("quantization_config"):
        problems.append(
            f"{path}: quantization_config: the weights are quantised; allowed: plain bf16, fp16 "
            "or fp32 weights"
        )
    narrow, wide = config.get("word_embed_proj_dim"), config.get("hidden_size")
    if narrow is not None and narrow != wide:  # OPT-350M
        what = f"word_embed_proj_dim is {narrow} and hidden_size {wide}"
        problems.append(f"{path}: {what}; needed: embeddings as wide as the layers")
    nested = config.get("text_config")
    text = config | nested if isinstance(nested, dict) else config
    sizes: dict[str, Any] = {"model_type": model_type, "max_positions": None}
    for size, names in _SIZES.items():
        sizes[size] = _positive(text, names)
        if sizes[size] is None:
            problems.append(f"{path} has no whole number above 0 for {' or '.join(names)}")
    if model_type not in SEQ2SEQ:  # T5's positions are relative: its n_positions limits nothing
        sizes["max_positions"] = _positive(text, _POSITIONS)
    return sizes, problems


def _t5_problems(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> Iterator[str]:
    """What a decoder and relative positions need of a config."""
    start, vocabulary = config.get("decoder_start_token_id"), sizes.get("vocab_size") or 2**31
    if start is None:
        todo = "the token that a decoder begins with (T5's is 0) must be in it"
        yield f"has no decoder_start_token_id; {todo}"
    elif type(start) is not int or not 0 <= start < vocabulary:
        needed = f"a token from 0 to {vocabulary - 1}"
        yield f"has decoder_start_token_id {short(start)}; needed: {needed}"
    buckets = config.get("relative_attention_num_buckets", 32)
    if type(buckets) is not int or buckets < 4:
        yield f"has relative_attention_num_buckets {short(buckets)}; needed: a whole number from 4"
        return
    most = config.get("relative_attention_max_distance", 128)
    if type(most) is not int or most <= buckets // 2:
        needed = f"a whole number above {buckets // 2}, half the buckets"
        yield f"has relative_attention_max_distance {short(most)}; needed: {needed}"


def _positive(config: dict[str, Any], names: Sequence[str]) -> int | None:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


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


def _embedding_problems(shapes: dict[str, list[int]], sizes: dict[str, Any]) -> list[str]:
    if not sizes.get("hidden_size") or not sizes.get("vocab_size"):
        return []
    config = [sizes["vocab_size"], sizes["hidden_size"]]
    return [
        f"{name} is {shape}, but {CONFIG} says {config} (vocab_size, hidden_size); they must agree"
        for name, shape in shapes.items()
        if name.endswith(_EMBEDDINGS) and shape != config
    ]


_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d{1,9})\.")


def _layer_problems(
    shapes: Mapping[str, Any], sizes: Mapping[str, Any], *, config: Mapping[str, Any]
) -> Iterator[str]:
    """Lines where the config has more layers than the weights, or leaves some of them out. Names
    without a number count for nothing, and neither do the layers that predict further tokens."""
    if not sizes.get("layers") or config.get("num_nextn_predict_layers"):
        return
    stacks = {"": sizes["layers"]}
    if sizes["model_type"] in SEQ2SEQ:
        decoder = config.get("num_decoder_layers")
        stacks = {"encoder.": sizes["layers"], "decoder.": decoder or sizes["layers"]}
    for stack, said in stacks.items():
        numbers = [_LAYER.search(name) for name in shapes if name.startswith(stack)]
        found = max((int(number[1]) for number in numbers if number), default=-1) + 1
        if found and said != found:
            what = f"{CONFIG} says {short(said)} {stack.strip('.') or 'hidden'} layers"
            yield f"{what}, and the weights have {found}; they must agree"


def closest(name: str, folder: Path) -> str:
    """A "did you mean" out of what lies in `folder`, or nothing."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return did_you_mean(name, names)
