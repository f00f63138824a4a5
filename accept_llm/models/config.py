"""What a config.json must say: a type of model that can be used, and its sizes. It knows no weights
and no torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from accept_llm.errors import refusal, short
from accept_llm.models.rope import steady_positions

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
_HEADS = (
    *("num_attention_heads", "num_key_value_heads", "head_dim", "n_head", "n_heads"),
    *("num_heads", "d_kv"),
)
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function")
# transformers' ACT2FN, and the types whose embeddings have a padding_idx (tests/models).
ACTIVATIONS = (
    *("gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python"),
    *("gelu_python_tanh", "gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear"),
    *("mish", "prelu", "quick_gelu", "relu", "relu2", "relu6", "sigmoid", "silu"),
    *("sqrtsoftplus", "swish", "tanh", "xielu"),
)
PADDING = (
    *("cohere", "cohere2", "gemma", "gemma2", "gemma3_text", "glm", "granite", "granitemoe"),
    *("llama", "mistral", "mixtral", "olmo", "olmo2", "olmoe", "opt", "phi", "phi3", "qwen2"),
    *("qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2"),
)
_NEEDED = "a causal LM or T5 is needed"


def refuse_type(model_type: str) -> str | None:
    """Why a model of this type cannot be used; None when it is T5 or may be a causal LM."""
    if model_type in ENCODER_DECODERS:
        return f"got {model_type!r}, an encoder-decoder; {_NEEDED}"
    if model_type in ENCODERS:
        return f"got {model_type!r}, an encoder; {_NEEDED}"
    return None


def read_sizes(config: dict[str, Any], path: Path) -> tuple[dict[str, Any], list[str]]:
    """The type and the sizes of a model, as ModelInfo names them, and what is wrong with them."""
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
    problems += [f"{path}: {line}" for line in (*_direction_problems(text), *_value_problems(text))]
    sizes: dict[str, Any] = {"model_type": model_type, "max_positions": None}
    for size, names in _SIZES.items():
        sizes[size] = _positive(text, names)
        if sizes[size] is None:
            problems.append(f"{path} has no whole number above 0 for {' or '.join(names)}")
    said = {name: n for name in _SIZES["layers"] if (n := _positive(text, [name]))}
    if len(set(said.values())) > 1:
        each = " and ".join(f"{name} {short(n)}" for name, n in said.items())
        problems.append(f"{path} has {each}; they must agree")
    if model_type not in SEQ2SEQ:  # T5's positions are relative: its n_positions limits nothing
        try:
            sizes |= _positions(text)
        except ValueError as error:
            problems.append(f"{path}: {error}")
    return sizes, problems


def _direction_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Settings by which a type that is causal looks both ways (EmbeddingGemma)."""
    both = config.get("use_bidirectional_attention")
    if both and both != "vision":  # Gemma 4's, of images alone
        yield f"use_bidirectional_attention: got {short(both)}; allowed: false; {_NEEDED}"
    causal = config.get("is_causal")  # transformers' masks read it for any type
    if causal is not None and not causal:
        yield f"is_causal: got {short(causal)}; allowed: true; {_NEEDED}"


def _value_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Values of which transformers makes no model, and says so late."""
    for name in _HEADS:
        value = config.get(name)
        is_list = isinstance(value, list)  # of some families, one for each layer
        if value is not None and not is_list and (type(value) is not int or value < 1):
            yield f"{name}: got {short(value)}; allowed: a whole number above 0"
    for name in _ACTIVATIONS:
        value = config.get(name)
        if value is not None and value not in ACTIVATIONS:
            yield f"{name}: {refusal(value, ACTIVATIONS, allowed=', '.join(ACTIVATIONS))}"
    padding, vocabulary = config.get("pad_token_id"), _positive(config, _SIZES["vocab_size"])
    if padding is None or vocabulary is None or config.get("model_type") not in PADDING:
        return
    if type(padding) is not int or not -vocabulary <= padding < vocabulary:  # -1 is in some
        needed = f"a token from 0 to {vocabulary - 1}, or null"
        yield f"pad_token_id: got {short(padding)}; allowed: {needed}"


def _positions(config: Mapping[str, Any]) -> dict[str, Any]:
    """How many positions can be used, and the rope_type that allows no more; see rope.py."""
    most, (steady, rope) = _positive(config, _POSITIONS), steady_positions(config)
    if steady is None or (most is not None and most < steady):
        return {"max_positions": most}
    return {"max_positions": steady, "rope": rope}


def t5_problems(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> Iterator[str]:
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


def _positive(config: Mapping[str, Any], names: Sequence[str]) -> int | None:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
