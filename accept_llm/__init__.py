"""Prompt tuning of frozen language models with ACCEPT's shared codebooks.

`load_prompt(folder)` reads a trained prompt; everything else is a recipe and a command
(`accept-llm --help`). Importing the package does no work and loads no torch.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accept_llm.adapter.folder import load_prompt

__version__ = "0.1.0"
__all__ = ["__version__", "load_prompt"]


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__` (PEP 562): `homes` has a public name and the module below
    `accept_llm` that it lies in, which is imported when the name is first asked for."""

    def find(name: str) -> Any:
        if name in homes:
            return getattr(import_module(f"accept_llm.{homes[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find


__getattr__ = lazily(__name__, {"load_prompt": "adapter.folder"})
