"""Makes the model of a config without memory for its weights."""

from typing import Any

import torch

from accept_llm.errors import RecipeError
from accept_llm.models.families import one_line, read_config
from accept_llm.models.folder import CONFIG, ModelInfo


def make_empty(info: ModelInfo, dtype: torch.dtype) -> Any:
    """The model of a config, its weights without memory; RecipeError where transformers cannot make
    it. Buffers (rotary frequencies) are made for real: no checkpoint holds them."""
    from accelerate import init_empty_weights

    config = read_config(info)
    try:
        with init_empty_weights(include_buffers=False):
            return auto_class(info).from_config(config, dtype=dtype)
    except Exception as error:  # what a family's own code raises for values that do not fit
        got = f"model: {info.folder}/{CONFIG}: transformers cannot make a model of it"
        got += f" ({one_line(error)})"
        raise RecipeError([f"{got}; allowed: values that go together"]) from None


def auto_class(info: ModelInfo) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM if info.architecture == "seq2seq" else AutoModelForCausalLM
