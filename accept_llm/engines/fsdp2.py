"""FSDP2: the frozen weights in shards over all processes, by torch's own fully_shard.

accelerate's own FSDP turns itself off on the CPU. Prompt and head stay outside, replicated, in
fp32.
"""

import ctypes
import sys
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from accept_llm.backbones.loading import DTYPES, Sharding
from accept_llm.engines.group import Group
from accept_llm.errors import RecipeError
from accept_llm.ranks import world_size
from accept_llm.recipe.engine import Fsdp2Engine as Fsdp2Spec

M_MMAP_THRESHOLD = -3  # glibc's malloc.h


class Fsdp2Engine(Group):
    """Each rank holds its part of every frozen weight and gathers a layer to use it: 1/world_size,
    or 1/shard_size with as many copies as there are groups of that size."""

    kind = "fsdp2"

    def __init__(self, spec: Fsdp2Spec | None = None) -> None:
        self.spec = spec or Fsdp2Spec(kind="fsdp2")
        # Every rank refuses a wrong size by itself: none waits for another in the group.
        self.mesh_shape = mesh_shape(self.spec.shard_size, world_size())
        super().__init__()
        home = torch.device("cpu") if self.spec.offload else self.device
        self.sharding = Sharding(self.shard, home=home, dtype=self.spec.param_dtype)
        if self.device.type == "cpu":
            _give_freed_memory_back()

    def shard(self, root: nn.Module, parts: list[nn.Module]) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        names = ("replicate", "shard")[-len(self.mesh_shape) :]
        mesh = init_device_mesh(self.device.type, self.mesh_shape, mesh_dim_names=names)
        policies = self._policies()
        # The root group too (the norm; a tied embedding) gives its gathered weights back.
        for module in (*parts, root):
            sharded = fully_shard(module, mesh=mesh, reshard_after_forward=True, **policies)
            if self.device.type == "cpu":
                sharded.set_custom_all_gather(cast(Any, OneBuffer()))  # its base is not public
                # Itself, in place of the part before: it is gathered already.
                sharded.set_modules_to_backward_prefetch([sharded])

    def _policies(self) -> dict[str, Any]:
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy

        policies: dict[str, Any] = {}
        if self.spec.param_dtype is not None:
            # Inputs have that type already. int8 numbers stay int8; only their scales are cast.
            dtype = DTYPES[self.spec.param_dtype]
            policies["mp_policy"] = MixedPrecisionPolicy(dtype, cast_forward_inputs=False)
        if self.spec.offload:
            policies["offload_policy"] = CPUOffloadPolicy(pin_memory=self.device.type != "cpu")
        return policies


def mesh_shape(shard_size: int | None, ranks: int) -> tuple[int, ...]:
    """(copies, ranks of a copy), or (ranks,) for one copy."""
    size = shard_size or ranks
    if ranks % size:
        sizes = ", ".join(str(n) for n in range(1, ranks + 1) if ranks % n == 0)
        raise RecipeError([f"engine.shard_size: got {size}; allowed with {ranks} ranks: {sizes}"])
    return (ranks,) if size == ranks else (ranks // size, size)


class OneBuffer:
    """An all-gather for the CPU that keeps one gathered copy of a part beside its weights.

    FSDP2 by default keeps the buffer of the part before as well, and in backward gathers the
    next part early: both let a GPU copy and compute at once. gloo's own all-gather has one more
    buffer inside; broadcasts write where they should.
    """

    def allocate(
        self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        async_op: bool = False,
    ) -> dist.Work:
        """The input is this rank's slice of the output already."""
        slices = output_tensor.chunk(group.size())
        assert slices[group.rank()].data_ptr() == input_tensor.data_ptr()
        works = [
            dist.broadcast(part, group=group, group_src=rank, async_op=True)
            for rank, part in enumerate(slices)
        ]
        for work in works:
            work.wait()
        return works[-1]  # after an asynchronous call FSDP2 frees the buffer at once


def _give_freed_memory_back() -> None:
    """Tells glibc to map every block of 128 kB or more by itself, as it does at first.

    By default that limit grows with the blocks that are freed, up to 32 MB. Activations then lie
    in the heap, which stays resident after the backward pass (0.3 GB with T5-XXL's widths).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # other C libraries have none
        mallopt(M_MMAP_THRESHOLD, 128 << 10)
