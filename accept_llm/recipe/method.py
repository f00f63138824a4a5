"""The prompt section of a recipe: ACCEPT, plain prompt tuning and DePT, with their budgets."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from accept_llm.recipe.types import Count, Size, Spec

Init = Literal["vocab", "gaussian", "kaiming"]


class Codebook(Spec):
    """A soft product-quantised codebook: K subspaces, r codewords each (paper eq. 3 and 7)."""

    subspaces: Count | None = None
    """K. It need not divide d: the first d % K subspaces are one wider."""
    subdim: Count | None = None
    """t: give it in place of `subspaces`; K = ceil(d / t)."""
    codewords: Count | None = None
    """r. Without it, the largest that the budget allows."""

    @model_validator(mode="after")
    def _one_of(self) -> "Codebook":
        if self.subspaces is not None and self.subdim is not None:
            raise ValueError(
                f"subdim: got {self.subdim} and subspaces {self.subspaces}; allowed: one of the two"
            )
        return self


class Prepended(Codebook):
    """SCPP: the composed prompt put before the input. K is 24 unless given."""

    init: Init = "vocab"


class Added(Codebook):
    """SCAP: the composed offsets added to the word embeddings. K is 2 unless given."""

    init: Literal["zero", "gaussian", "kaiming"] = "zero"


def _leave_room(length: int, budget: int, *, adds: bool) -> None:
    """The prepended tokens cost at most a unit of the budget each; the added part the rest."""
    if length > budget or (adds and length == budget):
        bound, rest = ("less than", ", as the added part has the rest") if adds else ("at most", "")
        raise ValueError(f"length: got {length}; allowed: {bound} prompt.budget ({budget}){rest}")


class AcceptPrompt(Spec):
    """ACCEPT: SCPP (m x d) and SCAP (l x d), both composed from codebooks."""

    kind: Literal["accept"]
    budget: Count = 100
    """Trainable numbers of the prompt, in units of d (100: as plain prompt tuning with m=100)."""
    length: Size = 60
    """m: tokens of SCPP; 0 leaves SCPP out."""
    prepended: Prepended = Prepended()
    added: Added | None = Added()
    """null leaves SCAP out."""

    @property
    def tokens(self) -> int:
        """The prepended tokens."""
        return self.length

    @model_validator(mode="after")
    def _affordable(self) -> "AcceptPrompt":
        if self.length == 0 and self.added is None:
            raise ValueError("length: got 0, with added: null; allowed: at least one of the two")
        _leave_room(self.length, self.budget, adds=self.added is not None)
        return self


class PlainPrompt(Spec):
    """PT: plain prompt tuning, `budget` free prompt tokens (Lester et al. 2021)."""

    kind: Literal["pt"]
    budget: Count = 100
    init: Init = "vocab"

    @property
    def tokens(self) -> int:
        """The prepended tokens."""
        return self.budget


class DeptPrompt(Spec):
    """DePT: m free prompt tokens and a low-rank l x d offset (Shi and Lipani 2024)."""

    kind: Literal["dept"]
    budget: Count = 100
    length: Count = 60
    rank: Count | None = None
    """Without it, the largest that the budget allows."""
    init: Init = "vocab"

    @property
    def tokens(self) -> int:
        """The prepended tokens."""
        return self.length

    @model_validator(mode="after")
    def _affordable(self) -> "DeptPrompt":
        _leave_room(self.length, self.budget, adds=True)
        return self


PromptSpec = Annotated[AcceptPrompt | PlainPrompt | DeptPrompt, Field(discriminator="kind")]
