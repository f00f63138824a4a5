"""Tiny random members of many families, with config values far from their defaults: at std 0.15 a
wrong mask or position cannot hide, and a scale or a soft cap that is left out neither."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from accept_llm.models.families import PACKED, PADDED
from accept_llm.models.sizes import GATED, PLAIN

SIZES = {
    **{"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"intermediate_size": 48, "initializer_range": 0.15, "max_position_embeddings": 64},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
SHARED = SIZES | {"num_key_value_heads": 2}
WIDE = SHARED | {"head_dim": 8}
EXPERTS = SHARED | {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 24}
OLD = {
    **{"vocab_size": 400, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    **{"initializer_range": 0.15, "bos_token_id": 1, "eos_token_id": 2},
}
NEO = {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}
SCALED = {"embedding_multiplier": 3.0, "residual_multiplier": 0.7, "attention_multiplier": 0.3}
CAPPED = {"final_logit_softcapping": 1.5, "attn_logit_softcapping": 2.0}

FAMILIES: dict[str, dict[str, Any]] = {
    "bloom": OLD | {"hidden_size": 32, "use_cache": False},
    "codegen": OLD | {"rotary_dim": 4},
    "cohere": SHARED | {"logit_scale": 0.3},
    "cohere2": SHARED | {"logit_scale": 0.3},
    "falcon": SIZES | {"bias": True, "alibi": True},
    "gemma": WIDE,
    "gemma2": WIDE | CAPPED | {"query_pre_attn_scalar": 3},
    "gemma3_text": WIDE | CAPPED | {"query_pre_attn_scalar": 3},
    "glm": WIDE,
    "gpt2": OLD | {"scale_attn_by_inverse_layer_idx": True},
    "gpt_bigcode": OLD,
    "gpt_neo": SIZES | NEO,
    "gpt_neox": SIZES | {"use_parallel_residual": False},
    "gptj": OLD | {"rotary_dim": 4},
    "granite": SHARED | SCALED | {"logits_scaling": 3.0},
    "granitemoe": SHARED | SCALED | {"logits_scaling": 3.0, "num_local_experts": 2},
    "llama": SHARED | {"attention_bias": True},
    "mistral": SIZES | {"num_key_value_heads": 1, "sliding_window": 32},
    "mixtral": SHARED | {"num_local_experts": 2},
    "mpt": {**OLD, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
    "olmo": SHARED | {"clip_qkv": 0.5},
    "olmo2": SHARED,
    "olmoe": EXPERTS,
    "opt": SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32, "do_layer_norm_before": False},
    "phi": SIZES,
    "phi3": SHARED,
    "qwen2": SHARED,
    "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 16},
    "qwen3": SHARED | {"head_dim": 16},
    "qwen3_moe": EXPERTS | {"head_dim": 16},
    "smollm3": SHARED,
    "stablelm": SHARED | {"use_parallel_residual": True},
    "starcoder2": SHARED,
}


OTHERS: dict[str, dict[str, Any]] = {
    "arcee": SHARED,
    "seed_oss": SHARED,
    "ernie": SIZES,  # looks both ways unless its config says is_decoder
    "roformer": SIZES | {"embedding_size": 32},
}
"""Families that accept_llm does not name."""

NOT_INT8 = ("granitemoe", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe")
"""Families whose matrices are not all linear layers."""

PAGE = """# Model families

`config.json`'s `model_type` says which a model is of. This page is made from the tests
(`PYTHONPATH=tests python -m support.families > docs/families.md`), which hold tiny random members
of each family, with config values far from their defaults, to transformers' own forward pass:
states, logits, likelihoods and gradients (tests/backbones/test_families.py), and what each engine
loads to what from_pretrained loads, under the names of the Hub, of save_pretrained and of the
module (tests/backbones/test_names.py). It says nothing of speed, or of a GPU.

`t5` (T5, T5 v1.1, Flan-T5) is the one encoder-decoder: padded, on every engine but a swarm, int8
too. A swarm has Llama, Falcon and BLOOM. Another causal model is read twice as it loads, in a
batch of two short texts and each alone by its own forward pass, and refused by name where these
differ.

| family | layouts | single, ddp, fsdp2, zero3 | int8: single, ddp, fsdp2 | `accept-llm plan` |
|---|---|---|---|---|
"""


def page() -> str:
    """docs/families.md."""
    lines = []
    for family in PADDED:
        layouts = "packed, padded" if family in PACKED else "padded"
        int8 = "refused" if family in NOT_INT8 else "yes"
        plan = "yes" if family in (*GATED, *PLAIN) else "no"
        lines.append(f"| `{family}` | {layouts} | yes | {int8} | {plan} |")
    return PAGE + "\n".join(lines) + "\n"


def model_of(family: str, **changes: Any) -> Any:
    """A random model of the family, in evaluation mode, and nothing else."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **((FAMILIES | OTHERS)[family] | changes))
        return AutoModelForCausalLM.from_config(config).eval()


def save_family(folder: Path, tokenizer: Path, family: str, **changes: Any) -> Path:
    """The model in a folder, with the tokenizer of another."""
    model_of(family, **changes).save_pretrained(folder)
    for file in tokenizer.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


if __name__ == "__main__":
    print(page(), end="")
