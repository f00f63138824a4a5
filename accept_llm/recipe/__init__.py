"""The recipe: one checked, frozen tree that says everything about a run. No torch."""

from typing import TYPE_CHECKING

from accept_llm import lazily

if TYPE_CHECKING:
    from accept_llm.recipe.method import Accept, Dept, Lora, PromptTuning
    from accept_llm.recipe.model import FolderModel, GgufModel, HubModel
    from accept_llm.recipe.recipe import (
        Recipe,
        dump_recipe,
        load_recipe,
        parse_recipe,
        read_recipe,
        schema,
    )
    from accept_llm.recipe.task import BuiltinTask, FileTask
    from accept_llm.recipe.train import Train

_HOMES = {
    **dict.fromkeys(("Accept", "Dept", "Lora", "PromptTuning"), "recipe.method"),
    **dict.fromkeys(("FolderModel", "GgufModel", "HubModel"), "recipe.model"),
    **dict.fromkeys(("Recipe", "dump_recipe", "load_recipe", "parse_recipe"), "recipe.recipe"),
    **dict.fromkeys(("read_recipe", "schema"), "recipe.recipe"),
    **dict.fromkeys(("BuiltinTask", "FileTask"), "recipe.task"),
    "Train": "recipe.train",
}
__all__ = [
    "Accept",
    "BuiltinTask",
    "Dept",
    "FileTask",
    "FolderModel",
    "GgufModel",
    "HubModel",
    "Lora",
    "PromptTuning",
    "Recipe",
    "Train",
    "dump_recipe",
    "load_recipe",
    "parse_recipe",
    "read_recipe",
    "schema",
]
__getattr__ = lazily(__name__, _HOMES)
