"""One process on the CPU or on one GPU."""

import torch
from torch import Tensor

from accept_llm.backbones.base import Backbone, Layout
from accept_llm.backbones.loading import load_backbone
from accept_llm.models.folder import ModelInfo
from accept_llm.ranks import wants_cpu
from accept_llm.recipe.model import ModelSpec


class SingleEngine:
    """The whole model on one device; the reference that other engines must equal."""

    kind = "single"
    rank = 0
    world_size = 1
    is_remote = False
    layout: Layout | None = None

    def __init__(self, spec: object = None) -> None:
        self.device = torch.device(
            "cuda" if torch.cuda.is_available() and not wants_cpu() else "cpu"
        )

    def load_backbone(self, spec: ModelSpec, info: ModelInfo, *, layout: Layout) -> Backbone:
        return load_backbone(spec, info, layout=layout, device=self.device, sharding=None)

    def sum_over_ranks(self, x: Tensor) -> Tensor:
        return x

    def gather(self, items: list) -> list:
        return items

    def close(self) -> None:
        pass
