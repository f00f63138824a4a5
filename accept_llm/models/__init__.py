"""Which model a recipe means, and what its folder holds. No torch, and no weight is read."""

from typing import TYPE_CHECKING

from accept_llm import lazily

if TYPE_CHECKING:
    from accept_llm.models.find import fetch_model, inspect_model
    from accept_llm.models.folder import ModelInfo

__all__ = ["ModelInfo", "fetch_model", "inspect_model"]
__getattr__ = lazily(
    __name__,
    {
        **dict.fromkeys(("fetch_model", "inspect_model"), "models.find"),
        "ModelInfo": "models.folder",
    },
)
