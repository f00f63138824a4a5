"""Prompt tuning of frozen language models with ACCEPT's shared codebooks.

`train(recipe)`, `evaluate(run)` and `predict(run, inputs)` do what the commands of `accept-llm` do;
`load(folder)` reads a trained adapter. Importing the package does no work and loads no torch.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accept_llm.adapter.folder import load, load_prompt
    from accept_llm.api import evaluate, predict, train
    from accept_llm.errors import RecipeError

__version__ = "0.1.0"
__all__ = [
    "RecipeError",
    "__version__",
    "evaluate",
    "load",
    "load_prompt",
    "predict",
    "train",
]


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__` (PEP 562): `homes` has a public name and the module below
    `accept_llm` that it lies in, which is imported when the name is first asked for."""

    def find(name: str) -> Any:
        if name in homes:
            return getattr(import_module(f"accept_llm.{homes[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find


__getattr__ = lazily(
    __name__,
    {
        **dict.fromkeys(("load", "load_prompt"), "adapter.folder"),
        **dict.fromkeys(("train", "evaluate", "predict"), "api"),
        "RecipeError": "errors",
    },
)
