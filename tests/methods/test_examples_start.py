"""Prompts that start from solved training examples."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.runs import recipe_data
from transformers import AutoModelForCausalLM, AutoTokenizer

from accept_llm.checks import prepare
from accept_llm.engines.base import open_engine
from accept_llm.errors import RecipeError
from accept_llm.methods.base import Method, Start
from accept_llm.methods.table import build_method
from accept_llm.recipe.method import Accept, Dept, MethodSpec, PromptTuning
from accept_llm.recipe.recipe import parse_recipe
from accept_llm.training.loading import load

TABLE = torch.randn(300, 40, generator=torch.Generator().manual_seed(9))


def tokens(count: int) -> torch.Tensor:
    return torch.arange(count) * 7 % 300


def build(spec: MethodSpec, **more) -> Method:
    start = Start(lambda ids: TABLE[ids], 300, torch.Generator().manual_seed(0), tokens)
    shape = spec.shape(hidden=40, positions=20)
    return build_method(spec, shape, start=replace(start, **more))


def accept(**more) -> Accept:
    # Widths are 8, so that 11 codewords fit any rows exactly.
    book = {"subspaces": 5, "codewords": 11}
    return Accept.model_validate({"kind": "accept", "length": 30, "prepended": book, **more})


@pytest.mark.parametrize(
    "spec",
    [
        accept(),
        PromptTuning(kind="pt", init="examples"),
        Dept(kind="dept", init="examples"),
        PromptTuning(kind="pt", init="examples", scale="none"),
    ],
    ids=str,
)
def test_the_prompt_is_the_examples_embeddings(spec):
    prefix = build(spec).compose().prefix
    torch.testing.assert_close(prefix, TABLE[tokens(len(prefix))], atol=1e-5, rtol=0)


def test_accept_starts_from_the_vocabulary_where_there_are_no_examples_or_no_scale():
    for more, settings in ({"examples": None}, {}), ({}, {"scale": "none"}):
        vocab = accept(prepended={**accept().prepended.model_dump(), "init": "vocab"}, **settings)
        prefix = build(accept(**settings), **more).compose().prefix
        assert prefix.equal(build(vocab).compose().prefix)
        assert not torch.allclose(prefix, TABLE[tokens(30)], atol=0.1)


def test_examples_that_are_not_there_are_refused():
    with pytest.raises(RecipeError, match="init is examples, but there is no training data"):
        build(PromptTuning(kind="pt", init="examples"), examples=None)


def test_a_run_starts_from_rows_of_its_training_file(tmp_path: Path, tiny_llama: Path):
    data = recipe_data(tmp_path, tiny_llama)
    data["method"] = {"kind": "pt", "budget": 20, "init": "examples"}
    del data["train"]["lr"]
    prepared = prepare(parse_recipe(data), "single")
    prefix = load(prepared, open_engine("single")).model.method.compose().prefix
    vocabulary = AutoModelForCausalLM.from_pretrained(tiny_llama).get_input_embeddings().weight
    ids = torch.cdist(prefix, vocabulary).argmin(dim=1)
    torch.testing.assert_close(prefix, vocabulary[ids], atol=1e-6, rtol=0)
    read = AutoTokenizer.from_pretrained(tiny_llama).decode(ids)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    words = ("bad", "good")
    solved = [f"text review: {row['review']} label: {words[row['label']]}\n" for row in rows]
    assert any(text.endswith(read) for text in solved), read
