"""Types of models that are known to be read rightly, and whether transformers knows a type."""

import re
from typing import Any

from accept_llm.errors import RecipeError, short
from accept_llm.models.config import SEQ2SEQ
from accept_llm.models.folder import CONFIG, ModelInfo

# tests/backbones/test_families.py holds each to transformers: states, logits, likelihoods.
PADDED = (
    *("bloom", "codegen", "cohere", "cohere2", "falcon", "gemma", "gemma2", "gemma3_text", "glm"),
    *("gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "granite", "granitemoe", "llama"),
    *("mistral", "mixtral", "mpt", "olmo", "olmo2", "olmoe", "opt", "phi", "phi3", "qwen2"),
    *("qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2"),
)
# Those whose attention takes our mask as it is.
PACKED = (
    *("cohere", "gemma", "gemma3_text", "gpt2", "gpt_neox", "granite", "llama", "mistral"),
    *("mixtral", "olmo", "olmo2", "opt", "phi", "phi3", "qwen2", "qwen3", "smollm3"),
    "starcoder2",
)


def check_type(info: ModelInfo) -> None:
    """RecipeError for a model of a type that transformers does not know. The families of our own
    lists are not looked up: that would load transformers."""
    if info.model_type not in (*PADDED, *SEQ2SEQ):
        read_config(info)


def read_config(info: ModelInfo) -> Any:
    """transformers' config of a model; RecipeError where it knows none of its type."""
    from transformers import CONFIG_MAPPING, AutoConfig, __version__

    try:
        return AutoConfig.from_pretrained(info.folder)
    except Exception as error:  # what a config's own code raises
        got = f"model: {info.folder}/{CONFIG}: transformers {__version__} cannot use it"
        why = one_line(error)
        if info.model_type in CONFIG_MAPPING:
            raise RecipeError([f"{got} ({why}){_given(info, why)}"]) from None
        if "auto_map" in info.config:
            got += ", as it needs code of its own, which is never run here"
        allowed = f"a type that it knows, such as {', '.join((*PADDED, 't5'))}"
        got += f" ({why}); got model_type {info.model_type!r}"
        raise RecipeError([f"{got}; allowed: {allowed}"]) from None


def one_line(error: Exception) -> str:
    """What a library says of a config, on a line of bounded length; the value is often on the last
    of its lines."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:600]


def _given(info: ModelInfo, why: str) -> str:
    """The value of the field that a message names, if it names one of the config's."""
    found = (name for name in re.findall(r"\w+", why) if name in info.config)
    name = next(found, None)
    return "" if name is None else f"; {name}: got {short(info.config[name])}"
