"""Perplexity of the frozen SmolLM2 with int8 weights against the same in fp32, without a prompt.

    python -m benchmarks.perplexity

The texts are the first sentences of SST-2's validation split and the first passages of BoolQ's,
each cut to 256 tokens, out of ACCEPT_DATA_DIR.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from accept_llm.backbones.loading import load_whole
from accept_llm.models.find import fetch_model
from accept_llm.recipe.model import Quantization
from accept_llm.recipe.recipe import load_recipe
from benchmarks.texts import tokenizer_of

RECIPE = Path(__file__).parent.parent / "recipes" / "smollm2_sst2.yaml"
LONGEST = 256
TEXTS = {"sst2": ("sentence", 200), "boolq": ("passage", 40)}


def texts_of(task: str) -> list[str]:
    """The first of its validation split."""
    import pyarrow.parquet as pq

    column, count = TEXTS[task]
    table = pq.read_table(Path(os.environ["ACCEPT_DATA_DIR"]) / task / "validation.parquet")
    return table[column][:count].to_pylist()


@torch.no_grad()
def perplexity(lm: Any, texts: Sequence[Sequence[int]]) -> float:
    """exp of the mean loss of all tokens but each text's first."""
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([text])
        logits = lm(input_ids=ids).logits[0, :-1].float()
        total += F.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        count += len(text) - 1
    return float(torch.tensor(total / count).exp())


def both(task: str) -> tuple[float, float]:
    """With fp32 and with int8 weights."""
    info = fetch_model(load_recipe(RECIPE)[0].model)
    ids = tokenizer_of(info.folder)(texts_of(task))["input_ids"]
    texts = [text[:LONGEST] for text in ids if len(text) > 1]

    def of(quantization: Quantization | None) -> float:
        how: dict[str, Any] = {"dtype": "fp32", "layout": "padded", "device": torch.device("cpu")}
        backbone: Any = load_whole(info, quantization=quantization, **how)
        return perplexity(backbone.module.lm, texts)

    return of(None), of("int8")


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print("| texts | fp32 | int8 | difference |\n|---|---|---|---|")
    for task, (_, count) in TEXTS.items():
        wide, narrow = both(task)
        print(
            f"| {task}, {count} | {wide:.2f} | {narrow:.2f} | {narrow / wide - 1:+.2%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
