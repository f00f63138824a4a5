"""What every engine does for a run. Each is imported only when a run asks for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Protocol

import torch
from torch import Tensor

from accept_llm.backbones.base import Backbone, Layout
from accept_llm.engines.facts import facts_of
from accept_llm.models.folder import ModelInfo
from accept_llm.recipe.engine import EngineSpec
from accept_llm.recipe.model import ModelSpec


class Engine(Protocol):
    """An engine holds the frozen weights and joins the ranks of a run. Rank 0 writes files and
    talks to the user."""

    kind: str
    rank: int
    world_size: int
    device: torch.device
    layout: Layout | None
    """The only one that it can have; None: the recipe's, or the model's."""
    is_remote: bool
    """Whether others compute, so that what they compute has to be checked."""

    def load_backbone(self, spec: ModelSpec, info: ModelInfo, *, layout: Layout) -> Backbone:
        """The frozen model of `info`, placed as this engine does."""

    def sum_over_ranks(self, x: Tensor) -> Tensor:
        """The sum over all ranks, the same on each."""

    def gather(self, items: list) -> list:
        """The items of all ranks, in the order of the ranks, on every rank."""

    def close(self) -> None:
        """Ends the process group, if there is one."""


def open_engine(kind: str, spec: EngineSpec | None = None) -> Engine:
    """The engine of that name, with the recipe's `engine` section where it is this engine's;
    RecipeError where its launcher is missing."""
    module, _, name = facts_of(kind).place.rpartition(".")
    own = spec if spec is not None and spec.kind == kind else None
    return getattr(import_module(module), name)(own)


@contextmanager
def opened_engine(kind: str, spec: EngineSpec | None = None) -> Iterator[Engine]:
    """Opens an engine, and closes it whatever happens."""
    engine = open_engine(kind, spec)
    try:
        yield engine
    finally:
        engine.close()
