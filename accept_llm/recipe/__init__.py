"""The recipe: one checked, frozen tree that says everything about a run. No torch."""

from typing import TYPE_CHECKING

from accept_llm import lazily

if TYPE_CHECKING:
    from accept_llm.recipe.recipe import (
        Recipe,
        dump_recipe,
        load_recipe,
        parse_recipe,
        read_recipe,
        schema,
    )

__all__ = ["Recipe", "dump_recipe", "load_recipe", "parse_recipe", "read_recipe", "schema"]

__getattr__ = lazily(__name__, dict.fromkeys(__all__, "recipe.recipe"))
