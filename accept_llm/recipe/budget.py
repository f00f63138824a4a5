"""How many codewords, tokens or ranks a budget of trainable numbers buys.

The rule of the paper (appendix A): a codebook of r codewords over n tokens has r*d + r*n*K
numbers (eq. 7), and r is the largest that stays within the budget. SCPP has m*d numbers to
spend, SCAP and DePT's low-rank pair have the rest of budget*d. Needs no torch.
"""

from dataclasses import dataclass

from accept_llm.errors import RecipeError
from accept_llm.recipe.method import AcceptPrompt, Added, DeptPrompt, PlainPrompt, Prepended

PAPER_SUBSPACES = {"prepended": 24, "added": 2}  # K of section 4.1, for every model


@dataclass(frozen=True)
class CodebookShape:
    """A codebook that composes `tokens` vectors of width `hidden`."""

    tokens: int
    hidden: int
    subspaces: int
    codewords: int

    @property
    def parameters(self) -> int:
        """Trainable numbers: r*d + r*n*K (eq. 7)."""
        return self.codewords * (self.hidden + self.tokens * self.subspaces)

    @property
    def widths(self) -> list[int]:
        """Width of each subspace; the first d % K are one wider."""
        width, wider = divmod(self.hidden, self.subspaces)
        return [width + (k < wider) for k in range(self.subspaces)]


@dataclass(frozen=True)
class PromptShape:
    """The sizes of a prompt: what the modules are built from and the adapter records."""

    hidden: int
    length: int
    """m, the prepended tokens."""
    positions: int
    """l, the token positions that have an added offset."""
    prepended: CodebookShape | None = None
    """None with length > 0: free prompt tokens."""
    added: CodebookShape | None = None
    rank: int | None = None
    """Rank of DePT's added low-rank pair."""

    @property
    def parameters(self) -> int:
        """Trainable numbers of the whole prompt."""
        prepended = self.prepended.parameters if self.prepended else self.length * self.hidden
        added = self.added.parameters if self.added else 0
        return prepended + added + (self.rank or 0) * (self.hidden + self.positions)


def codebook_shape(
    spec: Prepended | Added, *, part: str, tokens: int, hidden: int, budget: int
) -> CodebookShape:
    """Solves r = floor(budget / (d + n*K)); `part` is "prepended" or "added".

    Raises RecipeError when K exceeds d or when the budget buys no codeword.
    """
    if spec.subdim is not None:
        subspaces, given = -(-hidden // spec.subdim), f"prompt.{part}.subdim: got {spec.subdim}"
    else:
        subspaces = spec.subspaces or PAPER_SUBSPACES[part]
        given = f"prompt.{part}.subspaces: got {subspaces}"
    if subspaces > hidden or (spec.subdim or 0) > hidden:
        raise RecipeError([f"{given}; allowed: at most the model's hidden size ({hidden})"])
    affordable = budget // (hidden + tokens * subspaces)
    codewords = spec.codewords or affordable
    if codewords < 1:
        raise RecipeError(
            [
                f"{given}; allowed: fewer, or a larger prompt.budget: one codeword costs "
                f"{hidden + tokens * subspaces} numbers and this part has {budget}"
            ]
        )
    return CodebookShape(tokens=tokens, hidden=hidden, subspaces=subspaces, codewords=codewords)


def solve(
    spec: AcceptPrompt | PlainPrompt | DeptPrompt, *, hidden: int, positions: int
) -> PromptShape:
    """The sizes of the prompt that `spec` asks for on a model of width `hidden`."""
    if spec.kind == "pt":
        return PromptShape(hidden=hidden, length=spec.budget, positions=positions)
    rest = (spec.budget - spec.length) * hidden
    if spec.kind == "dept":
        rank = spec.rank or rest // (hidden + positions)
        if rank < 1:
            raise RecipeError(
                [f"prompt.budget: got {spec.budget}; allowed: enough for rank 1 of the added pair"]
            )
        return PromptShape(hidden=hidden, length=spec.length, positions=positions, rank=rank)
    prepended = added = None
    if spec.length:
        prepended = codebook_shape(
            spec.prepended,
            part="prepended",
            tokens=spec.length,
            hidden=hidden,
            budget=spec.length * hidden,
        )
    if spec.added:
        added = codebook_shape(
            spec.added, part="added", tokens=positions, hidden=hidden, budget=rest
        )
    return PromptShape(
        hidden=hidden, length=spec.length, positions=positions, prepended=prepended, added=added
    )
