"""What a method is: a small fp32 module, replicated, outside the frozen model.

A prompt composes vectors that a backbone puts before its input and adds to its word embeddings; it
works on every engine. A method inside the model has forward hooks, and works where the layers are
in this process.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from accept_llm.recipe.budget import Shape
from accept_llm.recipe.method import BaseMethod, read_shape


@dataclass(frozen=True)
class Composed:
    """What a backbone reads of a prompt."""

    prefix: Tensor | None = None
    """(m, d), prepended once."""
    offsets: Tensor | None = None
    """(l, d): the offset of each token position."""

    def leaves(self) -> "Composed":
        """The same values as leaves of the graph, to collect gradients of several passes."""
        parts = (self.prefix, self.offsets)
        return Composed(*(None if x is None else x.detach().requires_grad_() for x in parts))

    def backward(self, leaves: "Composed") -> None:
        """Sends what `leaves` collected through the composition, once."""
        for whole, leaf in ((self.prefix, leaves.prefix), (self.offsets, leaves.offsets)):
            if whole is not None and leaf is not None and leaf.grad is not None:
                whole.backward(leaf.grad)


@dataclass(frozen=True)
class Start:
    """What a method's first values are made from; the same on every rank and engine."""

    embed: Callable[[Tensor], Tensor]
    """Token ids (n,) -> their word embeddings (n, d)."""
    vocab_size: int
    generator: torch.Generator
    examples: Callable[[int], Tensor] | None = None
    """n -> (n,) tokens of solved training examples; None without training data."""


class Method(nn.Module):
    """The trained parameters, by groups that have a learning rate each."""

    kind: ClassVar[str]

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape

    def initialise(self, spec: BaseMethod, start: Start) -> None:
        """Puts the first values in place."""
        raise NotImplementedError

    def compose(self) -> Composed:
        """The prompt in fp32, with its graph; once a step is enough. A method inside the model has
        none."""
        return Composed()

    def attach(self, root: nn.Module) -> None:
        """Registers forward hooks in the loaded model (`root.lm`), by the names of its modules. A
        prompt has none."""

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """The trained parameters by their learning-rate group: the names of its spec's `rates`."""
        raise NotImplementedError

    def card(self) -> dict[str, Any]:
        """What an adapter's card must hold so that `from_card` builds the module again."""
        return {"kind": self.kind, **asdict(self.shape)}  # type: ignore[call-overload]

    @classmethod
    def from_card(cls, card: Mapping[str, Any], *, where: str = "method.") -> "Method":
        """The module of a card, its values still to be loaded; RecipeError names what is wrong in
        it, each line beginning with `where`."""
        return cls(read_shape(card, where=where))
