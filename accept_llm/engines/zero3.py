"""DeepSpeed's ZeRO-3: every frozen weight is cut, flat, into one piece a rank, and gathered by
hooks around the module that uses it.

Only the part of DeepSpeed that gathers is used (its DeepSpeedZeRoOffload): there is no DeepSpeed
optimizer or engine, because nothing that it holds is trained. Its version is pinned.
"""

import logging
import os
import warnings
from typing import Any

import torch
from torch import nn

from accept_llm.backbones.loading import Sharding, homes_of
from accept_llm.engines.group import TIMEOUT, Group
from accept_llm.ranks import wants_cpu
from accept_llm.recipe.engine import Zero3Engine as Zero3Spec


class Zero3Engine(Group):
    """Each rank holds 1/world_size of every frozen weight and gathers a module's to use them.

    `offload`: this rank's pieces stay in host memory.
    """

    kind = "zero3"

    def __init__(self, spec: Zero3Spec | None = None) -> None:
        self.offload = spec is not None and spec.offload
        if wants_cpu() or not torch.cuda.is_available():
            os.environ["DS_ACCELERATOR"] = "cpu"
        os.environ.setdefault("LOCAL_RANK", "0")
        super().__init__()
        self.sharding = Sharding(self.shard)

    def _open(self, backend: str) -> None:
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        # It still calls the gather by its old name (torch 2.13).
        warnings.filterwarnings("ignore", "`torch.distributed.all_gather_into_tensor`")
        import deepspeed

        # Its shared-memory collectives are compiled at first use; a rank that is killed meanwhile
        # leaves a lock behind that every later run waits for. gloo needs no compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        name = "gloo" if backend == "gloo" else "nccl"
        deepspeed.init_distributed(dist_backend=name, timeout=TIMEOUT, verbose=False)

    def _config(self) -> dict[str, Any]:
        stage: dict[str, Any] = {
            "stage": 3,
            # At DeepSpeed's 1e9 the gathered weights stay in memory; at 0 all are released.
            "stage3_max_live_parameters": 0,
            "stage3_max_reuse_distance": 0,
            "stage3_param_persistence_threshold": 0,
            "stage3_prefetch_bucket_size": 0,
        }
        if self.offload:
            stage["offload_param"] = {"device": "cpu", "pin_memory": self.device.type != "cpu"}
        return {"train_micro_batch_size_per_gpu": 1, "zero_optimization": stage}

    def shard(self, root: nn.Module, parts: list[nn.Module]) -> None:
        """Gives every parameter of `root`, which has no memory yet, its piece on this rank."""
        from deepspeed.runtime.config import DeepSpeedConfig
        from deepspeed.runtime.zero import Init
        from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload
        from deepspeed.utils.timer import NoopTimer

        config = self._config()
        pieces = Init(module=nn.Module(), config_dict_or_path=config)
        for parameter, homes in homes_of(root).items():
            whole: Any = nn.Parameter(torch.empty_like(parameter, device=self.device), False)
            pieces._convert_to_deepspeed_param(whole)
            whole.partition()  # no broadcast: there is nothing in it yet
            for module, name in homes:
                setattr(module, name, whole)
        stage = DeepSpeedConfig(config).zero_config
        DeepSpeedZeRoOffload(
            root,
            NoopTimer(),
            config,
            overlap_comm=self.device.type != "cpu",
            prefetch_bucket_size=stage.prefetch_bucket_size,
            max_reuse_distance=stage.max_reuse_distance,
            max_live_parameters=stage.max_live_parameters,
            param_persistence_threshold=0,
            offload_param_config=stage.offload_param,
        )
