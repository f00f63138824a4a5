"""Engines decide where the frozen weights live: on one device, in shards over processes, or on the
servers of a swarm.

Each is imported only when a run asks for it.
"""

from typing import Protocol

import torch
from torch import Tensor

from accept_llm.backbones.base import Backbone, Layout
from accept_llm.errors import RecipeError
from accept_llm.models.folder import ModelInfo
from accept_llm.recipe import engine as specs
from accept_llm.recipe.engine import EngineSpec
from accept_llm.recipe.model import ModelSpec


class Engine(Protocol):
    """Where a run happens. Rank 0 writes files and talks to the user."""

    kind: str
    rank: int
    world_size: int
    device: torch.device
    layout: Layout | None
    """The only one that it can have; None: the recipe's, or the model's."""
    is_remote: bool
    """Whether others compute, so that what they compute has to be checked."""

    def load_backbone(self, spec: ModelSpec, info: ModelInfo, layout: Layout) -> Backbone:
        """The frozen model of `info`, placed as this engine does."""

    def sum_over_ranks(self, x: Tensor) -> Tensor:
        """The sum over all ranks, the same on each."""

    def gather(self, items: list) -> list:
        """The items of all ranks, in the order of the ranks, on every rank."""

    def close(self) -> None:
        """Ends the process group, if there is one."""


def open_engine(kind: str, spec: EngineSpec | None = None) -> Engine:
    """The engine of that name, with the recipe's `engine` section; RecipeError where its launcher
    is missing."""
    if kind == "ddp":
        from accept_llm.engines.ddp import DdpEngine

        return DdpEngine()
    if kind == "fsdp2":
        from accept_llm.engines.fsdp2 import Fsdp2Engine

        return Fsdp2Engine(spec if isinstance(spec, specs.Fsdp2Engine) else None)
    if kind == "zero3":
        from accept_llm.engines.zero3 import Zero3Engine

        return Zero3Engine(offload=isinstance(spec, specs.Zero3Engine) and spec.offload)
    if kind == "petals":
        from accept_llm.engines.petals import PetalsEngine

        if not isinstance(spec, specs.PetalsEngine):
            message = "engine: got no section of kind petals; allowed: engine.kind=petals with"
            raise RecipeError([f"{message} engine.peers"])
        return PetalsEngine(spec)
    from accept_llm.engines.single import SingleEngine

    return SingleEngine()
