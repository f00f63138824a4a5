"""LoRA (Hu et al. 2022): a low-rank pair beside linear layers of the frozen model, by hooks.

A hook reads no weight of the model, which may be in shards or in 8 bits, and finds its layer by
name: other methods may have renamed its class.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from accept_llm.errors import RecipeError
from accept_llm.methods.base import Method, Start
from accept_llm.recipe.budget import LoraShape
from accept_llm.recipe.method import BaseMethod


class Pair(nn.Module):
    """A (r, inputs) and B (outputs, r), fp32."""

    def __init__(self, rank: int, inputs: int, *, outputs: int):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(rank, inputs))
        self.b = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> B A x, (..., outputs), in fp32."""
        return F.linear(F.linear(x.float(), self.a), self.b)


class LoraPairs(Method):
    """y + alpha / r * B A x for each layer's input x and output y."""

    kind = "lora"

    def __init__(self, shape: LoraShape):
        super().__init__(shape)
        self.scale = shape.alpha / shape.rank
        self.names = [layer.name for layer in shape.layers]
        self.pairs = nn.ModuleList(
            Pair(shape.rank, layer.inputs, outputs=layer.outputs) for layer in shape.layers
        )

    @torch.no_grad()
    def initialise(self, spec: BaseMethod, start: Start) -> None:
        """A is kaiming-uniform with a = sqrt(5), which is U(-1/sqrt(inputs), 1/sqrt(inputs)); B is
        zero: step 0 equals the frozen model."""
        for pair in self.pairs:
            assert isinstance(pair, Pair)
            bound = float(pair.a.shape[1] ** -0.5)
            pair.a.uniform_(-bound, bound, generator=start.generator)
            pair.b.zero_()

    def attach(self, root: nn.Module) -> None:
        lm: Any = root.lm
        modules = dict(lm.named_modules())
        for name, pair in zip(self.names, self.pairs, strict=True):
            find_module(modules, name).register_forward_hook(self._beside(pair))

    def _beside(self, pair: nn.Module) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            return (output + self.scale * pair(inputs[0])).to(output.dtype)

        return hook

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {"lora": list(self.pairs.parameters())}


def find_module(modules: dict[str, nn.Module], name: str) -> nn.Module:
    """The module of a checkpoint's name, which may lack the model's own first part."""
    if name in modules:
        return modules[name]
    found = [module for known, module in modules.items() if known.endswith(f".{name}")]
    if len(found) != 1:
        message = f"{name} of the checkpoint is {len(found)} modules of the loaded model"
        raise RecipeError([f"method.target_modules: {message}; allowed: layers that are one each"])
    return found[0]
