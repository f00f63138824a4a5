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
    def init_gaussian(
        self, *, weights: float, codewords: float, generator: torch.Generator
    ) -> None:
        """Normal weights and codewords of these deviations.

        Composed vectors then have deviation weights * codewords * sqrt(r).
        """
        self.weights.normal_(0, weights, generator=generator)
        self.codewords.normal_(0, codewords, generator=generator)

    @torch.no_grad()
    def init_kaiming(self, generator: torch.Generator) -> None:
        """Kaiming-uniform, a = sqrt(5), as torch's own linear layers: U(-1/sqrt(fan), ...)."""
        for tensor, fan in (
            (self.weights, self.shape.codewords),
            (self.codewords, self.shape.hidden),
        ):
            bound = fan**-0.5
            tensor.uniform_(-bound, bound, generator=generator)

    @torch.no_grad()
    def init_from(self, rows: Tensor, *, weights: float | None = None) -> None:
        """The best rank-r fit of `rows` (n, d) in each subspace: its truncated SVD, U S V^T.

        Weights are U sqrt(S) and codewords sqrt(S) V^T; or, with `weights`, orthogonal columns of
        that deviation, and codewords that hold the rest. Weights of codewords that the fit does
        not need stay as they are.
        """
        start = 0
        self.codewords.zero_()
        for k, width in enumerate(self.shape.widths):
            u, s, vt = torch.linalg.svd(rows[:, start : start + width].float(), full_matrices=False)
            rank = min(self.shape.codewords, len(s))  # r may exceed the width of a subspace
            left = right = s[:rank].sqrt()
            if weights is not None:
                left = torch.full_like(left, weights * len(rows) ** 0.5)
                right = s[:rank] / left
            self.weights[:, k, :rank] = u[:, :rank] * left
            self.codewords[:rank, start : start + width] = right[:, None] * vt[:rank]
            start += width
