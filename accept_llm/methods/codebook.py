"""The soft product-quantised codebook (paper section 3.3): n vectors of width d, each cut
into K sub-vectors, each a weighted sum of the r codewords of its subspace.
"""

import torch
from torch import Tensor, nn

from accept_llm.recipe.budget import CodebookShape


class SoftCodebook(nn.Module):
    """Codewords (r, d), the subspaces side by side, and weights (n, K, r); fp32.

    `compose()` gives (n, d): sub-vector k of row i is sum_j weights[i,k,j] * C_k[j] (eq. 3).
    """

    def __init__(self, shape: CodebookShape):
        super().__init__()
        self.shape = shape
        self.codewords = nn.Parameter(torch.zeros(shape.codewords, shape.hidden))
        self.weights = nn.Parameter(torch.zeros(shape.tokens, shape.subspaces, shape.codewords))

    def compose(self) -> Tensor:
        width, wider = divmod(self.shape.hidden, self.shape.subspaces)
        # Two even blocks: the `wider` first subspaces of width + 1, then the others.
        boundary = wider * (width + 1)
        blocks = [
            self._block(self.weights[:, :wider], self.codewords[:, :boundary]),
            self._block(self.weights[:, wider:], self.codewords[:, boundary:]),
        ]
        return torch.cat(blocks, dim=1)  # (n, d)

    @staticmethod
    def _block(weights: Tensor, codewords: Tensor) -> Tensor:
        """(n, k, r) and (r, k * t) -> (n, k * t), for k subspaces of one width."""
        n, k, r = weights.shape
        if k == 0:
            return weights.new_zeros(n, 0)
        return torch.einsum("nkr,rkt->nkt", weights, codewords.view(r, k, -1)).reshape(n, -1)

    @torch.no_grad()
    def init_gaussian(self, std: float, generator: torch.Generator) -> None:
        """Normal weights of variance 1/r and codewords of deviation `std`.

        Composed vectors then have deviation `std`, whatever r is.
        """
        self.weights.normal_(0, self.shape.codewords**-0.5, generator=generator)
        self.codewords.normal_(0, std, generator=generator)

    @torch.no_grad()
    def init_kaiming(self, generator: torch.Generator) -> None:
        """Kaiming-uniform, a = sqrt(5), as torch's own linear layers: U(-1/sqrt(fan), ...)."""
        for tensor, fan in (
            (self.weights, self.shape.codewords),
            (self.codewords, self.shape.hidden),
        ):
            bound = fan**-0.5
            tensor.uniform_(-bound, bound, generator=generator)

    def init_random(self, how: str, std: float, *, generator: torch.Generator) -> None:
        """gaussian, kaiming, or zero: a Gaussian start without codewords, in which the weights keep
        the codewords' gradient alive and step 0 equals the frozen model."""
        if how == "kaiming":
            self.init_kaiming(generator)
            return
        self.init_gaussian(std, generator)
        if how == "zero":
            self.codewords.data.zero_()

    @torch.no_grad()
    def init_from(self, rows: Tensor) -> None:
        """The best rank-r fit of `rows` (n, d) in each subspace: its truncated SVD.

        With U S V^T the sub-matrix, weights are U sqrt(S) and codewords sqrt(S) V^T, so that
        both have gradients of one scale.
        """
        start = 0
        for k, width in enumerate(self.shape.widths):
            u, s, vt = torch.linalg.svd(rows[:, start : start + width].float(), full_matrices=False)
            rank = min(self.shape.codewords, len(s))  # r may exceed the width of a subspace
            root = s[:rank].sqrt()
            self.weights[:, k].zero_()
            self.weights[:, k, :rank] = u[:, :rank] * root
            self.codewords[:, start : start + width].zero_()
            self.codewords[:rank, start : start + width] = root[:, None] * vt[:rank]
            start += width
