"""A model folder as Petals and its transformers 4.33 read it, and the name a swarm knows it by.

transformers 5 keeps rotary settings under `rope_parameters`, which 4.33 does not know: it would
take theta 10,000 and give other states, silently. Knows no swarm, and needs no Petals.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from accept_llm.errors import RecipeError
from accept_llm.models.folder import CONFIG, INDEX, ModelInfo, fingerprint
from accept_llm.storage import atomic_folder, in_cache, read_json

FAMILIES = ("llama", "falcon", "bloom")
_THETA = 10_000.0
# What 4.33 does not know of a Llama, and would leave out; and the value at which that is no loss.
_NEWER = {"attention_bias": False, "mlp_bias": False, "partial_rotary_factor": 1.0}


def check_family(info: ModelInfo) -> None:
    """RecipeError for a model that Petals has no blocks for."""
    if info.model_type not in FAMILIES:
        what = "an encoder-decoder, " if info.architecture == "seq2seq" else ""
        raise RecipeError(
            [
                f"engine.kind: got 'petals' with {what}model type {info.model_type!r} "
                f"({info.folder.name}); allowed: {', '.join(FAMILIES)} (Petals has no others)"
            ]
        )


def swarm_name(info: ModelInfo) -> str:
    """The prefix of the model's blocks in a swarm: the same for the same weights, however and
    wherever they are stored, and another for others."""
    return f"{info.model_type}-{info.hidden_size}x{info.layers}-{fingerprint(info.files)[:12]}"


def petals_folder(info: ModelInfo) -> Path:
    """The model's folder, or one in the cache with its config translated and its weights linked.

    RecipeError for a model whose config says what transformers 4.33 cannot compute.
    """
    check_family(info)
    config = read_json(info.folder / CONFIG)
    old, problems = old_config(config)
    if problems:
        raise RecipeError([f"model: {info.folder / CONFIG}: {line}" for line in problems])
    if old == config:
        return info.folder
    text = json.dumps(old, indent=2, sort_keys=True)
    key = hashlib.sha256(f"{info.folder.resolve()}\n{text}".encode()).hexdigest()[:12]
    name = f"{info.folder.name}-{key}"
    return in_cache(lambda cache: _linked_folder(info, text, target=cache / "petals" / name))


def _linked_folder(info: ModelInfo, text: str, *, target: Path) -> Path:
    """The folder of a model with another config.json."""
    if not target.is_dir():
        with atomic_folder(target) as draft:
            (draft / CONFIG).write_text(text)
            for file in info.files:
                (draft / file.name).symlink_to(file.resolve())
            if (info.folder / INDEX).is_file() and len(info.files) > 1:
                shutil.copyfile(info.folder / INDEX, draft / INDEX)
    return target


def old_config(new: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A config.json as transformers 4.33 reads it, and a line for all that it cannot say."""
    old, problems = dict(new), list[str]()
    rope = old.pop("rope_parameters", None)
    if rope is not None:
        kind = rope.get("rope_type", "default")
        old["rope_theta"] = rope.get("rope_theta", _THETA)
        if kind in ("linear", "dynamic"):
            old["rope_scaling"] = {"type": kind, "factor": rope["factor"]}
        elif kind != "default":
            allowed = "default, linear, dynamic (transformers 4.33 has no others)"
            problems.append(f"rope_parameters.rope_type: got {kind!r}; allowed: {allowed}")
    if "dtype" in old:
        old["torch_dtype"] = old.pop("dtype")
    if new.get("model_type") == "llama":
        problems += _newer_llama(new)
    elif new.get("model_type") == "falcon" and old.get("rope_theta", _THETA) != _THETA:
        problems.append(f"rope_theta: got {old['rope_theta']}; allowed for a Falcon: {_THETA}")
    return old, problems


def _newer_llama(config: dict[str, Any]) -> list[str]:
    wrong = [
        f"{name}: got {config[name]!r}; allowed: {value!r} (transformers 4.33 knows no other)"
        for name, value in _NEWER.items()
        if config.get(name, value) != value
    ]
    heads, width = config.get("num_attention_heads"), config.get("hidden_size")
    size = config.get("head_dim")
    if heads and width and size and size * heads != width:
        fits = f"hidden_size / num_attention_heads ({width // heads})"
        wrong.append(f"head_dim: got {size}; allowed: {fits}")
    return wrong
