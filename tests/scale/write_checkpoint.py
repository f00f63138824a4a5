"""Writes a checkpoint of a large model's real shape with random weights, never in memory.

    python tests/scale/write_checkpoint.py --model llama2_7b --tokenizer FOLDER --out DIR

llama2_7b (13.5 GB) is Llama-2-7B, flan_t5_xxl_full (22.3 GB) Flan-T5-XXL; flan_t5_xxl (11.4 GB)
has its widths and half its layers.

The safetensors files are written by hand, header first, so that a tensor can be streamed in
pieces. The numbers are normal with std 0.02 (norms: 1), but not independent: one seeded block
of 4M bf16 values is used again and again, each tensor from its own offset and every piece with
its own sign. That is as fast as the disk, and enough to load, shard and train on.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np

STD = 0.02
BLOCK = 1 << 22  # values in the block of random numbers
LARGEST_FILE = 2_000_000_000
SIGN = np.uint16(0x8000)
Shape = tuple[int, ...]
Tensor = tuple[str, Shape]
Rng = np.random.Generator

# fmt: off
LLAMA2_7B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16",
    "hidden_size": 4096, "intermediate_size": 11008, "vocab_size": 32000,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "hidden_act": "silu",
    "rope_theta": 10000.0, "tie_word_embeddings": False, "attention_bias": False,
    "mlp_bias": False, "bos_token_id": 1, "eos_token_id": 2, "use_cache": True,
}
FLAN_T5_XXL = {
    "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "dtype": "bfloat16",
    "d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "vocab_size": 32128,
    "num_layers": 12, "num_decoder_layers": 12, "feed_forward_proj": "gated-gelu",
    "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6, "dropout_rate": 0.1, "tie_word_embeddings": False,
    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
    "is_encoder_decoder": True, "use_cache": True,
}
FLAN_T5_XXL_FULL = FLAN_T5_XXL | {"num_layers": 24, "num_decoder_layers": 24}
# fmt: on


def bf16_bits(values: np.ndarray) -> np.ndarray:
    """float32 -> the upper 16 bits, rounded to nearest."""
    return ((values.astype(np.float32).view(np.uint32) + 0x8000) >> 16).astype(np.uint16)


def llama_tensors(config: dict) -> Iterator[Tensor]:
    """Names and shapes of a LlamaForCausalLM without biases and with an untied head."""
    d, ffn, vocab = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    yield "model.embed_tokens.weight", (vocab, d)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (d,)
        for name in "qkvo":
            yield f"{prefix}.self_attn.{name}_proj.weight", (d, d)
        yield f"{prefix}.post_attention_layernorm.weight", (d,)
        yield f"{prefix}.mlp.gate_proj.weight", (ffn, d)
        yield f"{prefix}.mlp.up_proj.weight", (ffn, d)
        yield f"{prefix}.mlp.down_proj.weight", (d, ffn)
    yield "model.norm.weight", (d,)
    yield "lm_head.weight", (vocab, d)


def t5_tensors(config: dict) -> Iterator[Tensor]:
    """Names and shapes of a T5 v1.1 (gated, untied head), as Flan-T5's files have them."""
    d, vocab = config["d_model"], config["vocab_size"]
    yield "shared.weight", (vocab, d)
    yield from t5_stack("encoder", config, config["num_layers"])
    yield from t5_stack("decoder", config, config["num_decoder_layers"])
    yield "lm_head.weight", (vocab, d)


def t5_stack(stack: str, config: dict, layers: int) -> Iterator[Tensor]:
    d, ffn, heads = (config[k] for k in ("d_model", "d_ff", "num_heads"))
    inner = heads * config["d_kv"]
    attentions = ["SelfAttention"] if stack == "encoder" else ["SelfAttention", "EncDecAttention"]
    for block in range(layers):
        prefix = f"{stack}.block.{block}.layer"
        for part, attention in enumerate(attentions):
            for name in "qkv":
                yield f"{prefix}.{part}.{attention}.{name}.weight", (inner, d)
            yield f"{prefix}.{part}.{attention}.o.weight", (d, inner)
            if block == part == 0:
                shape = (config["relative_attention_num_buckets"], heads)
                yield f"{prefix}.0.SelfAttention.relative_attention_bias.weight", shape
            yield f"{prefix}.{part}.layer_norm.weight", (d,)
        part = len(attentions)
        yield f"{prefix}.{part}.DenseReluDense.wi_0.weight", (ffn, d)
        yield f"{prefix}.{part}.DenseReluDense.wi_1.weight", (ffn, d)
        yield f"{prefix}.{part}.DenseReluDense.wo.weight", (d, ffn)
        yield f"{prefix}.{part}.layer_norm.weight", (d,)
    yield f"{stack}.final_layer_norm.weight", (d,)


MODELS = {
    "llama2_7b": (LLAMA2_7B, llama_tensors),
    "flan_t5_xxl": (FLAN_T5_XXL, t5_tensors),
    "flan_t5_xxl_full": (FLAN_T5_XXL_FULL, t5_tensors),
}


def size_of(model: str) -> int:
    """The bytes of all weights of a model at its default sizes."""
    config, tensors = MODELS[model]
    return sum(2 * prod(shape) for _, shape in tensors(config))


def into_files(items: Iterator[Tensor], largest: int) -> list[list[Tensor]]:
    """Groups of tensors, in order, none over `largest` bytes unless one tensor is."""
    files: list[list[Tensor]] = [[]]
    room = largest
    for name, shape in items:
        size = 2 * prod(shape)
        if size > room and files[-1]:
            files.append([])
            room = largest
        files[-1].append((name, shape))
        room -= size
    return files


def pieces(shape: Shape, block: np.ndarray, rng: Rng) -> Iterator[memoryview]:
    """The bytes of one tensor, a block or less at a time."""
    left = prod(shape)
    if len(shape) == 1:
        yield bf16_bits(np.ones(left)).data
        return
    while left:
        start = int(rng.integers(len(block) // 2))
        part = block[start : start + left]
        yield (part ^ SIGN if rng.integers(2) else part).data
        left -= len(part)


def write_file(path: Path, group: list[Tensor], block: np.ndarray, rng: Rng) -> None:
    """One safetensors file: 8 bytes of length, the JSON header, the tensors."""
    header: dict = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in group:
        end = at + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for _, shape in group:
            for piece in pieces(shape, block, rng):
                stream.write(piece)


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copies the tokenizer's files; ids above its own vocabulary just stay unused."""
    names = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
    found = [source / n for n in (*names, "merges.txt", "special_tokens_map.json")]
    for path in found:
        if path.is_file():
            shutil.copyfile(path, out / path.name)


def write(args: argparse.Namespace) -> int:
    """Writes the folder; returns the bytes of all weights."""
    args.out.mkdir(parents=True)
    config, tensors = MODELS[args.model]
    config = config | json.loads(args.config)
    rng = np.random.default_rng(args.seed)
    block = bf16_bits(rng.standard_normal(BLOCK, dtype=np.float32) * np.float32(STD))
    groups = into_files(tensors(config), args.largest_file)
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, start=1):
        name = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        write_file(args.out / name, group, block, rng)
        weight_map |= {tensor: name for tensor, _ in group}
        print(f"{name}: {len(group)} tensors", flush=True)
    total = sum(2 * prod(shape) for group in groups for _, shape in group)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (args.out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    copy_tokenizer(args.tokenizer, args.out)
    (args.out / "config.json").write_text(json.dumps(config, indent=1))  # last: now it is whole
    return total


def parser() -> argparse.ArgumentParser:
    """The command line; without --config the shape is the real one."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    result.add_argument("--model", choices=MODELS, required=True)
    result.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    result.add_argument("--tokenizer", type=Path, required=True, help="any model folder's")
    result.add_argument("--config", default="{}", help="JSON: what differs from the model's own")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--largest-file", type=int, default=LARGEST_FILE)
    return result


if __name__ == "__main__":
    print(f"{write(parser().parse_args()) / 1e9:.2f} GB of weights")
