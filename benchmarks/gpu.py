"""A training step of Llama-2-7B's shape on a GPU: tokens/s, share of the measured matmul rate and
peak memory of accept_llm's packed path and of PEFT's prompt tuning.

    python -m benchmarks.gpu [--limit-gib 24] [--repeats 5]
    python -m benchmarks.gpu --tiny        two small layers, on any machine: does it run?

Needs torch, transformers and this package; PEFT's sides need peft, bnb-int8 bitsandbytes, and
what is missing is named. Weights are random and made on the device: nothing is downloaded.
"""

import argparse
import gc
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accept_llm.backbones.int8 import Int8Linear, quantise
from benchmarks.compute import linear_shapes, matmul_rate, share_of_ceiling
from benchmarks.measure import MEMORY, machine, peak_of, results, take_turns
from benchmarks.sides import FLEX, VARIANTS, Side, Variant, on_shared_model
from benchmarks.tables import RESULTS, rate_lines, save, table
from benchmarks.tables import VARIANTS as COLUMNS
from benchmarks.texts import Batches, drawn, spread

LLAMA_2_7B: dict[str, Any] = {
    **{"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008},
    **{"num_hidden_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 4096},
}
TINY: dict[str, Any] = {
    **{"vocab_size": 97, "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "max_position_embeddings": 512},
}
GIB = 2**30


def texts(*, tiny: bool) -> dict[str, list[int]]:
    """Lengths of one batch each: short texts as in SST-2, and about 8k tokens of longer ones."""
    if tiny:
        return {"short texts": spread(4, 12)}
    return {"short texts": spread(32, 44), "8k tokens": spread(43, 256)}


def random_model(sizes: dict[str, Any], *, device: torch.device, dtype: torch.dtype) -> Any:
    """A Llama with random weights, made on the device."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    with device:
        lm = AutoModelForCausalLM.from_config(LlamaConfig(**sizes), dtype=dtype)
    return lm.requires_grad_(False).eval()


def in_8_bit(lm: Any) -> Any:
    """Every linear layer but the LM head as bitsandbytes' LLM.int8, in place."""
    bnb: Any = importlib.import_module("bitsandbytes")
    for parent in list(lm.base_model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is not nn.Linear:
                continue
            device = layer.weight.device
            new = bnb.nn.Linear8bitLt(
                layer.in_features, layer.out_features, bias=False, has_fp16_weights=False
            )
            # It is quantised on its way to the device.
            new.weight = bnb.nn.Int8Params(
                layer.weight.data.cpu(), requires_grad=False, has_fp16_weights=False
            )
            setattr(parent, name, new.to(device))
    return lm.requires_grad_(False)


def in_int8(lm: Any) -> Any:
    """Every linear layer but the LM head as `model.quantization: int8` has it, in place."""
    for parent in list(lm.base_model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear:
                new, old = Int8Linear(layer), layer.weight.data
                new.to_empty(device=old.device)
                quantise(old, new.weight.data, scale=new.scale.data)
                setattr(parent, name, new)
    return lm


def sides_on(lm: Any, variants: Sequence[Variant], *, dtype: torch.dtype) -> dict[str, Side]:
    return {v.key: on_shared_model(v, lm, dtype=dtype, classes=2) for v in variants}


def measured(
    lm: Any, variants: Sequence[Variant], *, batches: Batches, dtype: torch.dtype, repeats: int
) -> list[dict[str, Any]]:
    """Time by turns and then the peak of each side; all are on one model, in one process."""
    sides = sides_on(lm, variants, dtype=dtype)
    times, failed = take_turns(sides, batches, repeats=repeats)
    gc.collect()
    peaks = {key: peak_of(sides[key], batches[0]) for key in times}
    return results(variants, batches, times=times, peaks=peaks, failed=failed)


def one_run(
    lm: Any, label: str, *, variants: Sequence[Variant], args: argparse.Namespace
) -> tuple[dict[str, Any], str]:
    """All batches on a model, as data and as text."""
    dtype, device = lm.dtype, next(lm.parameters()).device
    weights = sum(p.numel() * p.element_size() for p in lm.parameters())
    data: dict[str, Any] = {"weights_bytes": weights, "batches": {}}
    text = f"## {label}: weights {weights / GIB:.2f} GiB\n"
    for name, lengths in texts(tiny=args.tiny).items():
        rows = drawn(lengths, vocab_size=lm.config.vocab_size)
        lines = measured(lm, variants, batches=[rows], dtype=dtype, repeats=args.repeats)
        text += f"\n{name}: {len(rows)} examples, {sum(lengths)} tokens\n\n{table(COLUMNS, lines)}"
        found: dict[str, Any] = {"lengths": lengths, "variants": lines}
        if "seconds" in lines[0]:
            rate = matmul_rate(
                linear_shapes(lm.config),
                lines[0]["positions"],
                dtype=dtype,
                device=device,
                repeats=args.repeats,
            )
            share = share_of_ceiling(
                lm.config, [rows], m=variants[0].m, seconds=lines[0]["seconds"], rate=rate
            )
            found |= {"matmul_rate": rate, "packed_step": share}
            text += f"\n{rate_lines(rate, share)}"
        data["batches"][name] = found
    return data, text


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="two small layers, without a GPU too")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit-gib", type=float, help="the memory that this process may take")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    args = parser.parse_args(given)
    if not (args.tiny or torch.cuda.is_available()):
        parser.error("there is no CUDA device; allowed without one: --tiny")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.limit_gib and device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, args.limit_gib * GIB / total))
    has_peft = importlib.util.find_spec("peft") is not None
    variants = [v for v in VARIANTS if v.method != "peft" or has_peft]
    if device.type == "cuda":
        variants.insert(1, FLEX)
    sizes = TINY if args.tiny else LLAMA_2_7B
    # A CPU without bf16 instructions would spend its time in a loop that nobody uses.
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    began = machine()
    kinds: dict[str, Any] = {"dense": lambda lm: lm, "int8": in_int8, "bnb-int8": in_8_bit}
    runs: dict[str, Any] = dict.fromkeys(kinds)
    text = ""
    for kind, made in kinds.items():
        if kind == "bnb-int8" and importlib.util.find_spec("bitsandbytes") is None:
            text += f"\n{kind}: left out, bitsandbytes is not installed.\n"
            continue
        lm = made(random_model(sizes, device=device, dtype=dtype))
        label = str(dtype).removeprefix("torch.") if kind == "dense" else kind
        runs[kind], more = one_run(lm, label, variants=variants, args=args)
        text += f"\n{more}"
        del lm  # before the next: there may be room for one only
        gc.collect()
    data = {"sizes": sizes, **runs, "memory_is": MEMORY[device.type]}
    if not has_peft:
        text += "\nPEFT: left out, peft is not installed.\n"
    text += f"\nMedians of {args.repeats}; {machine()}.\n"
    save("gpu", data | {"before": began, "after": machine()}, text=text, out=args.out)


if __name__ == "__main__":
    main()
