"""The shapes of a model, from its config.json alone: how many numbers its matrices have."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from accept_llm.errors import RecipeError
from accept_llm.recipe.budget import LinearSize

# Causal families by their feed-forward part: with a gate (three matrices), or without (two).
GATED = (
    *("cohere", "gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "mixtral", "olmo"),
    *("olmo2", "phi3", "qwen2", "qwen3", "smollm3"),
)
LLAMA_NAMES = (
    *("cohere", "gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "olmo", "olmo2"),
    *("qwen2", "qwen3", "smollm3"),
)
PLAIN = ("gpt2", "gpt_neox", "opt", "phi", "starcoder2")


@dataclass(frozen=True)
class Sizes:
    """A causal model, or an encoder (`layers`) and a decoder (`decoder_layers`)."""

    hidden: int
    ffn: int
    gated: bool
    heads: int
    key_heads: int
    head_width: int
    layers: int
    decoder_layers: int
    vocab: int
    tied: bool
    """Word embeddings and LM head are one matrix."""
    experts: int = 1

    @property
    def inner(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_width

    @property
    def keys(self) -> int:
        """Width of the keys, and of the values."""
        return self.key_heads * self.head_width

    @property
    def attention(self) -> int:
        """Numbers of one attention."""
        return 2 * self.hidden * (self.inner + self.keys)

    @property
    def feed_forward(self) -> int:
        """Numbers of one feed-forward part, all experts together."""
        return (3 if self.gated else 2) * self.hidden * self.ffn * self.experts

    @property
    def linear(self) -> int:
        """Numbers of all linear layers but the LM head."""
        encoder = self.layers * (self.attention + self.feed_forward)
        return encoder + self.decoder_layers * (2 * self.attention + self.feed_forward)

    @property
    def words(self) -> int:
        """Numbers of the word embeddings alone."""
        return self.vocab * self.hidden

    @property
    def head(self) -> int:
        """Numbers of an LM head of its own."""
        return 0 if self.tied else self.words

    @property
    def norms(self) -> int:
        return self.hidden * (2 * self.layers + 3 * self.decoder_layers + 2)

    @property
    def parameters(self) -> int:
        return self.linear + self.words + self.head + self.norms

    @property
    def largest_part(self) -> int:
        """Numbers of what FSDP2 gathers together: a layer (T5: an attention or a feed-forward
        part), or a vocabulary (loading.py has the parts)."""
        together = (self.attention, self.feed_forward)
        layer = max(together) if self.decoder_layers else sum(together)
        return max(layer, self.words)

    @property
    def largest_matrix(self) -> int:
        return max(self.words, self.hidden * max(self.ffn, self.inner))

    def linear_layers(self, model_type: str) -> tuple[LinearSize, ...]:
        """The linear layers by the names of the family, as `linear_sizes` finds them in a
        checkpoint; none for a family whose names are not known here."""
        if model_type == "t5":
            return tuple(self._t5_layers())
        return tuple(self._llama_layers()) if model_type in LLAMA_NAMES else ()

    def _llama_layers(self) -> Iterator[LinearSize]:
        attention = {"q": self.inner, "k": self.keys, "v": self.keys}
        for number in range(self.layers):
            layer = f"model.layers.{number}"
            for name, outputs in attention.items():
                yield LinearSize(f"{layer}.self_attn.{name}_proj", self.hidden, outputs)
            yield LinearSize(f"{layer}.self_attn.o_proj", self.inner, self.hidden)
            yield LinearSize(f"{layer}.mlp.gate_proj", self.hidden, self.ffn)
            yield LinearSize(f"{layer}.mlp.up_proj", self.hidden, self.ffn)
            yield LinearSize(f"{layer}.mlp.down_proj", self.ffn, self.hidden)

    def _t5_layers(self) -> Iterator[LinearSize]:
        inner = ("wi_0", "wi_1") if self.gated else ("wi",)
        both = ("SelfAttention", "EncDecAttention")
        stacks = (("encoder", self.layers, both[:1]), ("decoder", self.decoder_layers, both))
        for stack, count, attentions in stacks:
            for block in (f"{stack}.block.{number}" for number in range(count)):
                for place, attention in enumerate(attentions):
                    at = f"{block}.layer.{place}.{attention}"
                    for name in ("q", "k", "v"):
                        yield LinearSize(f"{at}.{name}", self.hidden, self.inner)
                    yield LinearSize(f"{at}.o", self.inner, self.hidden)
                at = f"{block}.layer.{len(attentions)}.DenseReluDense"
                for name in inner:
                    yield LinearSize(f"{at}.{name}", self.hidden, self.ffn)
                yield LinearSize(f"{at}.wo", self.ffn, self.hidden)


def read_sizes(config: Mapping[str, Any]) -> Sizes:
    """The sizes in a config as transformers writes it; RecipeError where a size is missing, and
    for a family whose matrices are not known here."""
    model_type = config.get("model_type")
    if model_type == "t5":
        return _t5(config)
    nested = config.get("text_config")
    config = {**config, **nested} if isinstance(nested, dict) else config
    if model_type not in (*GATED, *PLAIN):
        known = ", ".join(sorted(("t5", *GATED, *PLAIN)))
        got = f"model: no plan for a model of type {model_type!r}"
        raise RecipeError([f"{got}; allowed: {known}"])
    hidden = _number(config, "hidden_size", "n_embd")
    heads = _number(config, "num_attention_heads", "n_head")
    return Sizes(
        hidden=hidden,
        ffn=_number(config, "intermediate_size", "n_inner", "ffn_dim", default=4 * hidden),
        gated=model_type in GATED,
        heads=heads,
        key_heads=_number(config, "num_key_value_heads", default=heads),
        head_width=_number(config, "head_dim", default=hidden // heads),
        layers=_number(config, "num_hidden_layers", "n_layer"),
        decoder_layers=0,
        vocab=_number(config, "vocab_size"),
        tied=bool(config.get("tie_word_embeddings", _TIED.get(str(model_type), False))),
        experts=_number(config, "num_local_experts", default=1),
    )


# What a config that does not say it means (transformers' default of the family).
_TIED = dict.fromkeys(
    ("cohere", "gemma", "gemma2", "gemma3_text", "gpt2", "opt", "starcoder2", "smollm3"), True
)


def _t5(config: Mapping[str, Any]) -> Sizes:
    layers, heads = _number(config, "num_layers"), _number(config, "num_heads")
    return Sizes(
        hidden=_number(config, "d_model"),
        ffn=_number(config, "d_ff"),
        gated=str(config.get("feed_forward_proj", "relu")).startswith("gated"),
        heads=heads,
        key_heads=heads,
        head_width=_number(config, "d_kv"),
        layers=layers,
        decoder_layers=_number(config, "num_decoder_layers", default=layers),
        vocab=_number(config, "vocab_size"),
        tied=bool(config.get("tie_word_embeddings", True)),
    )


def _number(config: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        if value is not None:
            break
    else:
        if default is not None:
            return default
    got = f"model: config.json has no whole number above 0 for {' or '.join(names)}"
    raise RecipeError([f"{got}; allowed: a config as transformers writes it"])
