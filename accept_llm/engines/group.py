"""The process group that every engine with more than one rank shares.

`accelerate launch` (or torchrun) only starts the processes; what they do together is torch's own
process group, gloo on CPUs and NCCL on GPUs.
"""

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from accept_llm.backbones.base import Backbone, Layout
from accept_llm.backbones.loading import Sharding, load_backbone
from accept_llm.models.folder import ModelInfo
from accept_llm.ranks import wants_cpu
from accept_llm.recipe.model import ModelSpec

TIMEOUT = timedelta(minutes=30)  # a rank may convert or download a model while others wait


class Group:
    """Opens the process group; a rank's device is its own GPU, or the CPU."""

    is_remote = False
    layout: Layout | None = None

    def __init__(self, spec: object = None) -> None:
        cuda = torch.cuda.is_available() and not wants_cpu()
        self.device = torch.device("cpu")
        if cuda:
            # srun may show each of its tasks one GPU alone.
            here = int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()
            self.device = torch.device("cuda", here)
            torch.cuda.set_device(self.device)
        self._open("cpu:gloo,cuda:nccl" if cuda else "gloo")
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def _open(self, backend: str) -> None:
        dist.init_process_group(backend, timeout=TIMEOUT)

    sharding: Sharding | None = None
    """None keeps the weights whole."""

    def load_backbone(self, spec: ModelSpec, info: ModelInfo, *, layout: Layout) -> Backbone:
        return load_backbone(spec, info, layout=layout, device=self.device, sharding=self.sharding)

    def sum_over_ranks(self, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    def gather(self, items: list) -> list:
        parts: list[list] = [[] for _ in range(self.world_size)]
        dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()
