"""What a step must compute, and how fast the machine multiplies matrices of those shapes."""

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from accept_llm.backbones.linear import needs_fp32
from benchmarks.sides import Rows

Shapes = Counter[tuple[int, int]]
"""(out, in) of the linear layers -> how many the model has."""


def linear_shapes(config: Any) -> Shapes:
    """Those of the model below its LM head."""
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(config)
    layers = (module for module in model.modules() if isinstance(module, nn.Linear))
    return Counter((layer.out_features, layer.in_features) for layer in layers)


def step_flops(config: Any, rows: Rows, *, m: int) -> int:
    """The multiplications and additions that a packed step cannot do without, as it is usually
    counted: the linear layers at every token of [P][x_1]..[x_B] and attention over the pairs
    that see each other, once forward and, for the inputs' gradient, once (attention: twice)
    backward. Frozen weights have no gradient. Nothing that is computed again counts."""
    lengths = [len(row.tokens) for row in rows]
    tokens = m + sum(lengths)
    linear = sum(count * out * into for (out, into), count in linear_shapes(config).items())
    pairs = m * (m + 1) // 2 + sum(n * m + n * (n + 1) // 2 for n in lengths)
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    attention = 4 * width * pairs * config.num_hidden_layers  # q k^T and the values
    return 2 * 2 * tokens * linear + 3 * attention


@torch.no_grad()
def matmul_rate(
    shapes: Shapes, tokens: int, *, dtype: torch.dtype, device: torch.device, repeats: int
) -> dict[str, Any]:
    """FLOP/s of plain products x W^T (forward) and g W (the inputs' gradient) for `tokens` rows,
    each shape as often as the model has it; medians, the first product not counted.

    Where torch has no fast bf16 product they are measured in fp32, as they are computed.
    """
    seconds = {"forward": 0.0, "backward": 0.0}
    dtype = torch.float32 if needs_fp32(device, dtype) else dtype
    for (out, into), count in shapes.items():
        x = torch.randn(tokens, into, device=device, dtype=dtype)
        weight = torch.randn(out, into, device=device, dtype=dtype)
        seconds["forward"] += count * _median_product(x, weight.T, repeats=repeats)
        g = torch.randn(tokens, out, device=device, dtype=dtype)
        seconds["backward"] += count * _median_product(g, weight, repeats=repeats)
    flops = sum(2 * tokens * out * into * count for (out, into), count in shapes.items())
    return {
        "tokens": tokens,
        "dtype": str(dtype).removeprefix("torch."),
        "forward": flops / seconds["forward"],
        "backward": flops / seconds["backward"],
        "both": 2 * flops / sum(seconds.values()),
    }


def _median_product(a: torch.Tensor, b: torch.Tensor, *, repeats: int) -> float:
    found = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        a @ b
        if a.is_cuda:
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return statistics.median(found[1:])


def share_of_ceiling(
    config: Any, batches: Sequence[Rows], *, m: int, seconds: float, rate: dict[str, Any]
) -> dict[str, float]:
    """FLOP/s of a step that takes `seconds`, and its share of the measured rate."""
    flops = statistics.mean(step_flops(config, rows, m=m) for rows in batches)
    return {"flops": flops, "per_second": flops / seconds, "share": flops / seconds / rate["both"]}
