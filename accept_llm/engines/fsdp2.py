"""FSDP2: the frozen weights in shards over all processes, by torch's own fully_shard.

`accelerate launch` (or torchrun) only starts the processes: accelerate's FSDP turns itself
off on the CPU. Prompt and head stay outside, replicated, in fp32.
"""

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from accept_llm.backbones import Backbone
from accept_llm.backbones.loading import load_sharded
from accept_llm.models import ModelInfo
from accept_llm.ranks import wants_cpu
from accept_llm.recipe import ModelSpec

TIMEOUT = timedelta(minutes=30)  # a rank may convert or download a model while others wait


class Fsdp2Engine:
    """Each rank holds 1/world_size of every frozen weight and gathers a layer to use it."""

    kind = "fsdp2"

    def __init__(self) -> None:
        cuda = torch.cuda.is_available() and not wants_cpu()
        self.device = torch.device("cpu")
        if cuda:
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(self.device)
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=TIMEOUT)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def load_backbone(self, spec: ModelSpec, info: ModelInfo) -> Backbone:
        return load_sharded(
            info, dtype=spec.dtype, layout=spec.layout, device=self.device, shard=self._shard
        )

    def _shard(self, root: nn.Module, blocks: list[nn.Module]) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.world_size,))
        # The root group too (the norm; a tied embedding) gives its gathered weights back.
        for module in (*blocks, root):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)

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
