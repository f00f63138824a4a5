"""Rotary positions that depend on the length of a text: exact up to it, and refused beyond."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.backbones import alone, answered_batch, close, prompt_of, wrap
from support.families import model_of, save_family
from support.runs import recipe_data

from accept_llm.checks import prepare
from accept_llm.data.batches import collate
from accept_llm.data.encoding import Encoded
from accept_llm.errors import RecipeError
from accept_llm.models.find import inspect_model
from accept_llm.models.folder import ModelInfo
from accept_llm.models.rope import steady_positions
from accept_llm.recipe.model import FolderModel
from accept_llm.recipe.recipe import parse_recipe

OLD = "original_max_position_embeddings"
FACTORS = {"short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [4.0, 8.0, 16.0, 32.0]}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, OLD: 16, **FACTORS}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "phi3": ("phi3", {"rope_parameters": LONG, OLD: 16}),
    "llama": ("llama", {"rope_parameters": LONG}),
    "dynamic": ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 16}),
}
NESTED = {
    "full_attention": LONG,
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
CASES["gemma3"] = ("gemma3_text", {"rope_parameters": NESTED, "layer_types": list(NESTED)})
EVERY = pytest.mark.parametrize("case", CASES)


@pytest.mark.parametrize("layout", ["padded", "packed"])
@EVERY
def test_up_to_the_limit_a_batch_reads_what_each_text_alone_does(case: str, layout: str) -> None:
    """6 of the prompt and at most 10 of a text; with gradients, and with the prompt kept."""
    family, changes = CASES[case]
    lm, prompt, batch = model_of(family, **changes), prompt_of(32), answered_batch(90)
    rows = [*batch.tokens.split(batch.lengths.tolist()), torch.arange(3, 13)]
    batch = collate([Encoded(str(i), tuple(row.tolist()), 0) for i, row in enumerate(rows)])
    want, backbone = alone(lm, batch, prompt), wrap(lm, layout)
    close(backbone(batch, prompt, reads="states"), want)
    with torch.no_grad():
        for _ in range(2):
            close(backbone(batch, prompt, reads="states"), want)


@pytest.mark.parametrize("case", ["phi3", "llama", "gemma3"])
def test_beyond_the_limit_it_would_not(case: str) -> None:
    family, changes = CASES[case]
    lm, prompt = model_of(family, **changes), prompt_of(32, offsets=False)
    batch = collate([Encoded(str(n), tuple(range(3, 3 + n)), 0) for n in (4, 12)])
    with torch.no_grad():
        want = alone(lm, batch, prompt)
        got = wrap(lm, "packed")(batch, prompt, reads="states")
    assert (got - want).norm() > 0.05 * want.norm()


def look(folder: Path) -> ModelInfo:
    info = inspect_model(FolderModel(kind="folder", path=str(folder)))
    assert info is not None
    return info


@EVERY
def test_beyond_the_limit_is_refused_by_name(tmp_path: Path, tiny_llama: Path, case: str) -> None:
    family, changes = CASES[case]
    folder = save_family(tmp_path / "model", tiny_llama, family, **changes)
    assert look(folder).max_positions == 16
    data = recipe_data(tmp_path, folder)
    tokens = parse_recipe(data).method.tokens
    data["task"]["max_length"] = 16 - tokens
    assert prepare(parse_recipe(data), "single").model
    data["task"]["max_length"] += 1
    with pytest.raises(RecipeError) as caught:
        prepare(parse_recipe(data), "single")
    (said,) = caught.value.problems
    kind = "dynamic" if case == "dynamic" else "longrope"
    assert said == (
        f"task.max_length: got {17 - tokens} with {tokens} prompt tokens; allowed: at most 16 "
        f"positions in all (model, whose rope_type {kind!r} turns longer texts another way)"
    )


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"rope_parameters": None, "rope_scaling": None}, (None, "")),
        ({"rope_parameters": {"rope_type": "llama3", OLD: 16}}, (None, "")),
        ({"rope_scaling": {"type": "longrope", OLD: 16}}, (16, "longrope")),
        ({"rope_scaling": {"type": "su"}, OLD: 32}, (32, "su")),
        ({"rope_scaling": {"type": "su"}, "model_type": "phi3"}, (4096, "su")),
        ({"rope_scaling": {"type": "yarn"}, "model_type": "phi3", OLD: 8}, (8, "yarn")),
        ({"rope_scaling": {"type": "longrope"}, "max_position_embeddings": 64}, (64, "longrope")),
        ({"rope_scaling": {"type": "dynamic"}, "max_position_embeddings": 64}, (64, "dynamic")),
        (
            {"rope_parameters": {"full_attention": LONG, "sliding_attention": {"rope_theta": 1}}},
            (16, "longrope"),
        ),
    ],
)
def test_where_a_config_says_it(config: dict[str, Any], found: tuple[int | None, str]) -> None:
    assert steady_positions(config) == found


def test_a_limit_that_is_not_said() -> None:
    with pytest.raises(ValueError, match=r"rope_type 'dynamic' without a whole number above 0 for"):
        steady_positions({"rope_scaling": {"type": "dynamic"}})
