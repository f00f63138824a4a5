"""What a method hands to a backbone."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Composed:
    """What a backbone reads of a prompt."""

    prefix: Tensor | None
    """(m, d), prepended once."""
    offsets: Tensor | None
    """(l, d): the offset of each token position."""

    def leaves(self) -> "Composed":
        """The same numbers cut off from the graph, to collect gradients of several passes."""
        parts = (self.prefix, self.offsets)
        return Composed(*(None if x is None else x.detach().requires_grad_() for x in parts))

    def backward(self, leaves: "Composed") -> None:
        """Sends what `leaves` collected through the composition, once."""
        for whole, leaf in ((self.prefix, leaves.prefix), (self.offsets, leaves.offsets)):
            if whole is not None and leaf is not None and leaf.grad is not None:
                whole.backward(leaf.grad)
