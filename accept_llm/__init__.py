"""Prompt tuning of frozen language models with ACCEPT's shared codebooks.

`load_prompt(folder)` reads a trained prompt; everything else is a recipe and a command
(`accept-llm --help`). Importing the package does no work and loads no torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accept_llm.adapter import load_prompt

__version__ = "0.1.0"
__all__ = ["__version__", "load_prompt"]


def __getattr__(name: str) -> Any:
    if name == "load_prompt":
        from accept_llm.adapter import load_prompt

        return load_prompt
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
