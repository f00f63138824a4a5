"""What every method of the table must hold."""

import json

import pytest
import torch
from pydantic import TypeAdapter

from accept_llm.methods.table import METHODS, method_from_card
from accept_llm.recipe.budget import LinearSize
from accept_llm.recipe.method import MethodSpec


@pytest.mark.parametrize("kind", METHODS)
def test_every_method(kind: str) -> None:
    """Groups with a rate each, the parameters that its shape counts, and a card that makes it
    again, with the same names of tensors."""
    spec = TypeAdapter(MethodSpec).validate_python({"kind": kind})
    linears = [LinearSize(f"layers.{i}.self_attn.{x}_proj", 96, 64) for i in (0, 1) for x in "qkvo"]
    shape = spec.shape(hidden=96, positions=40, model_type="llama", linears=linears)
    method = METHODS[kind](shape)
    groups = method.groups()
    assert set(groups) == set(spec.rates)
    grouped = [p for group in groups.values() for p in group]
    assert {id(p) for p in grouped} == {id(p) for p in method.parameters()}
    assert sum(p.numel() for p in grouped) == shape.parameters
    assert all(p.dtype == torch.float32 for p in grouped)
    again = method_from_card(json.loads(json.dumps(method.card())))
    sizes = {name: tensor.shape for name, tensor in method.state_dict().items()}
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == sizes
    assert again.card() == method.card()
