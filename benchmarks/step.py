"""Time of one training step: PEFT prompt tuning against accept_llm, padded and packed.

    python -m benchmarks.step [--model FOLDER] [--batch 32] [--repeats 5]

All sides have the same weights and the same texts, in fp32, and take turns in one run. Without
--model it is SmolLM2-135M of recipes/quickstart.yaml, with the quick-start reviews.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from accept_llm.backbones.causal import CausalBackbone, CausalRoot
from accept_llm.batches import Batch, Encoder, collate
from accept_llm.budget import solve
from accept_llm.data import load_splits
from accept_llm.models import fetch_model
from accept_llm.prompts import build_prompt
from accept_llm.recipe import AcceptPrompt, BuiltinTask, FolderModel, load_recipe

LENGTH, POSITIONS = 60, 256  # m and l of the paper
QUICKSTART = Path(__file__).parent.parent / "recipes" / "quickstart.yaml"


def accept_step(lm: Any, batch: Batch, layout: Any) -> Callable[[], None]:
    """One forward and backward pass of ACCEPT (SCPP and SCAP)."""
    backbone = CausalBackbone(CausalRoot(lm), config=lm.config, dtype=torch.float32, layout=layout)
    spec = AcceptPrompt(kind="accept", length=LENGTH)
    shape = solve(spec, hidden=backbone.hidden_size, positions=POSITIONS)
    prompt = build_prompt(spec, shape, embed=backbone.embed, vocab_size=backbone.vocab_size, seed=0)

    def step() -> None:
        backbone(batch, prompt.compose(), reads="states").sum().backward()

    return step


def peft_step(lm: Any, batch: Batch, pad_to: int) -> Callable[[], None]:
    """One forward and backward pass of PEFT's prompt tuning, right-padded to `pad_to`."""
    from peft import PromptTuningConfig, get_peft_model

    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=LENGTH)
    model = get_peft_model(lm, config)
    rows = batch.tokens.split(batch.lengths.tolist())
    ids = torch.zeros(len(batch), pad_to, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    last = LENGTH + batch.lengths - 1

    def step() -> None:
        # The states of the last layer, not logits of every position: PEFT at its best.
        out = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, logits_to_keep=1)
        out.hidden_states[-1][torch.arange(len(ids)), last].sum().backward()

    return step


def measure(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median seconds of each, taking turns; the first turn is not counted."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if turn:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a model folder")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    recipe, _ = load_recipe(QUICKSTART)
    model = FolderModel(kind="folder", path=args.model) if args.model else recipe.model
    folder = fetch_model(model).folder
    task = BuiltinTask(kind="quickstart", max_length=POSITIONS)
    splits = load_splits(task, seed=0)
    encode = Encoder(AutoTokenizer.from_pretrained(folder), splits.task, task)
    batch = collate(encode(splits.train[: args.batch]))

    def fresh() -> Any:
        lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return lm.requires_grad_(False).eval()

    seconds = measure(
        {
            "PEFT, padded to the longest": peft_step(fresh(), batch, int(batch.lengths.max())),
            "accept_llm, padded": accept_step(fresh(), batch, "padded"),
            "accept_llm, packed": accept_step(fresh(), batch, "packed"),
        },
        args.repeats,
    )
    slowest = seconds["PEFT, padded to the longest"]
    print(f"{folder.name}: batch {len(batch)}, {int(batch.lengths.sum())} tokens, m = {LENGTH}\n")
    print("| layout | median seconds a step | times PEFT's speed |\n|---|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {value:.2f} | {slowest / value:.2f} |")


if __name__ == "__main__":
    main()
