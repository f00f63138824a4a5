"""The same Llama with word embeddings of any scale: a test bed for learning rates.

    python -m benchmarks.rescaled --out /tmp/rescaled

writes SmolLM2 (the recipe's; `--model FOLDER` takes another Llama) for a = 1, 1/3, 1/7 and 3 as
fp32 folders. The word embeddings and every output projection are multiplied by a and the norms'
epsilon by a squared, so that all that a block reads is normalised to the same numbers; the LM head
is untied and stays. A prompt and its offsets multiplied by a then give the same logits.
"""

import argparse
import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import torch

from accept_llm.models.find import fetch_model
from accept_llm.models.tokenizer_files import TOKENIZERS
from accept_llm.recipe.recipe import load_recipe

RECIPE = Path(__file__).parent.parent / "recipes" / "smollm2_sst2.yaml"
SCALES = tuple(map(Fraction, ("1", "1/3", "1/7", "3")))
SCALED = ("embed_tokens.", "o_proj.", "down_proj.")
TOKENIZER_FILES = {*TOKENIZERS, "tokenizer_config.json", "special_tokens_map.json"}


def folder_of(out: Path, scale: Fraction) -> Path:
    return out / f"x{scale.numerator}" if scale.denominator == 1 else out / f"x1-{1 / scale}"


def rescale(source: Path, target: Path, *, scale: float) -> None:
    """Writes the Llama in `source` to `target` with word embeddings `scale` times as large."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(source)
    if config.model_type != "llama":
        raise SystemExit(f"--model: got a {config.model_type}; allowed: a llama")
    weights = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).state_dict()
    head = weights["lm_head.weight"].clone()  # a tied one is the word embeddings
    scaled = {n: w * scale if any(part in n for part in SCALED) else w for n, w in weights.items()}
    config.update({"tie_word_embeddings": False, "rms_norm_eps": config.rms_norm_eps * scale**2})
    lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    lm.load_state_dict({**scaled, "lm_head.weight": head})
    lm.save_pretrained(target)
    for file in source.iterdir():
        if file.name in TOKENIZER_FILES:
            shutil.copyfile(file, target / file.name)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rescaled")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="a folder with a Llama; default: SmolLM2")
    parser.add_argument("--scales", type=Fraction, nargs="+", default=SCALES)
    options = parser.parse_args(arguments)
    source = options.model or fetch_model(load_recipe(RECIPE)[0].model).folder
    for scale in options.scales:
        target = folder_of(options.out, scale)
        rescale(source, target, scale=float(scale))
        print(f"{target}: word embeddings times {scale}")


if __name__ == "__main__":
    main()
