"""METHODS, the one table of what can be trained, and building one of them."""

from collections.abc import Mapping
from typing import Any

from accept_llm.errors import RecipeError
from accept_llm.methods.base import Method, Start
from accept_llm.methods.lora import LoraPairs
from accept_llm.methods.prompts import AcceptPrompt, DeptPrompt, PlainPrompt
from accept_llm.recipe.budget import Shape
from accept_llm.recipe.method import MethodSpec

METHODS: dict[str, type[Method]] = {
    "accept": AcceptPrompt,
    "pt": PlainPrompt,
    "dept": DeptPrompt,
    "lora": LoraPairs,
}


def build_method(spec: MethodSpec, shape: Shape, *, start: Start) -> Method:
    """A method of these sizes with its first values."""
    method = METHODS[spec.kind](shape)
    method.initialise(spec, start)
    return method


def method_from_card(card: Mapping[str, Any], *, where: str = "method.") -> Method:
    """The method of an adapter's card; RecipeError where it is damaged or not known."""
    kind = card.get("kind")
    if kind not in METHODS:
        raise RecipeError([f"{where}kind: got {kind!r}; allowed: {', '.join(METHODS)}"])
    return METHODS[kind].from_card(card, where=where)
