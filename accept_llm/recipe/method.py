"""The method's section of a recipe: what is trained beside the frozen model, with its budget.

A class here says what a recipe may ask for, which groups of parameters have a learning rate of
their own, and what sizes follow on a model. The modules are in accept_llm/methods/.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from accept_llm.errors import RecipeError
from accept_llm.recipe.budget import CodebookShape, LinearSize, LoraShape, PromptShape, Shape
from accept_llm.recipe.messages import parse_section
from accept_llm.recipe.types import Count, Positive, Size, Spec, kind_of

Init = Literal["examples", "vocab", "gaussian", "kaiming"]
"""The word embeddings that a prompt starts from. examples: of training texts, each with the word of
its label; vocab: of random common tokens."""


class BaseMethod(Spec):
    """What every method says of itself before its module is built."""

    rates: ClassVar[dict[str, float]]
    """The default learning rate of each group of its parameters; a recipe's train.lr and
    train.weight_decay name these groups, and `head`."""
    shape_class: ClassVar[type[Shape]] = PromptShape
    is_inside: ClassVar[bool] = False
    """Whether it has modules inside the frozen model, which must then be in this process."""

    @classmethod
    def default_rates(cls, section: Mapping[str, Any]) -> dict[str, float]:
        """`rates`, or others where a recipe's `method` section, checked or not, asks for them."""
        return cls.rates

    @property
    def tokens(self) -> int:
        """m: the prepended tokens; of a prompt, its `length`."""
        return int(getattr(self, "length", 0))

    def shape(
        self,
        *,
        hidden: int,
        positions: int,
        model_type: str = "",
        linears: Sequence[LinearSize] = (),
    ) -> Shape:
        """The sizes on a model of width `hidden` with these linear layers, for inputs of up to
        `positions` tokens. RecipeError where they do not go together."""
        raise NotImplementedError


# --- prompts ----------------------------------------------------------------------------

Scale = Literal["embeddings", "none"]


class PromptMethod(BaseMethod):
    """A prompt, which works on every engine."""

    unscaled_rates: ClassVar[dict[str, float]]
    """The default learning rates with `scale: none`."""

    kind: str
    scale: Scale = "embeddings"
    """What the trained parameters are in units of. embeddings: the deviation of the model's word
    embeddings, so that a learning rate is the share of it by which a step moves a composed vector.
    none: they are the vectors' own numbers, as in the paper; rates then depend on the model."""

    @classmethod
    def default_rates(cls, section: Mapping[str, Any]) -> dict[str, float]:
        return cls.unscaled_rates if section.get("scale") == "none" else cls.rates

    def starts(self) -> Mapping[str, str | None]:
        """What the first values are made from, by the field that says so."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _one_scale(self) -> "PromptMethod":
        wrong = [field for field, init in self.starts().items() if init == "kaiming"]
        if wrong and self.scale != "none":
            allowed = "allowed: another start, or kaiming with method.scale none"
            raise ValueError("\n".join(f"{field}: got 'kaiming'; {allowed}" for field in wrong))
        return self


class Codebook(Spec):
    """A soft product-quantised codebook: K subspaces, r codewords each (paper eq. 3 and 7)."""

    part: ClassVar[str]
    """Its name in a recipe."""
    paper_subspaces: ClassVar[int]
    """K of section 4.1, for every model."""

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

    def shape(self, *, tokens: int, hidden: int, budget: int) -> CodebookShape:
        """Solves r = floor(budget / (d + n*K)).

        Raises RecipeError when K exceeds d or when the budget buys no codeword.
        """
        field = f"method.{self.part}"
        if self.subdim is not None:
            subspaces, given = -(-hidden // self.subdim), f"{field}.subdim: got {self.subdim}"
        else:
            subspaces = self.subspaces or self.paper_subspaces
            given = f"{field}.subspaces: got {subspaces}"
        if subspaces > hidden or (self.subdim or 0) > hidden:
            raise RecipeError([f"{given}; allowed: at most the model's hidden size ({hidden})"])
        price = hidden + tokens * subspaces
        codewords = self.codewords or budget // price
        if codewords < 1:
            raise RecipeError(
                [
                    f"{given}; allowed: fewer, or a larger method.budget: one codeword costs "
                    f"{price} parameters and this part has {budget}"
                ]
            )
        return CodebookShape(tokens=tokens, hidden=hidden, subspaces=subspaces, codewords=codewords)


class Prepended(Codebook):
    """SCPP: the composed prompt put before the input. K is 24 unless given."""

    part = "prepended"
    paper_subspaces = 24

    init: Init | None = None
    """Without it, examples; vocab with `scale: none`."""


class Added(Codebook):
    """SCAP: the composed offsets added to the word embeddings. K is 2 unless given."""

    part = "added"
    paper_subspaces = 2

    init: Literal["zero", "gaussian", "kaiming"] = "zero"


def _leave_room(length: int, budget: int, *, adds: bool) -> None:
    """The prepended tokens cost at most a unit of the budget each; the added part the rest."""
    if length > budget or (adds and length == budget):
        bound, rest = ("less than", ", as the added part has the rest") if adds else ("at most", "")
        raise ValueError(f"length: got {length}; allowed: {bound} method.budget ({budget}){rest}")


class Accept(PromptMethod):
    """ACCEPT: SCPP (m x d) and SCAP (l x d), both composed from codebooks."""

    rates: ClassVar[dict[str, float]] = {"prepended": 0.05, "added": 0.008}
    unscaled_rates: ClassVar[dict[str, float]] = {"prepended": 3e-3, "added": 5e-4}

    kind: Literal["accept"]
    budget: Count = 100
    """Trained parameters of the prompt, in units of d (100: as plain prompt tuning with m=100)."""
    length: Size = 60
    """m: tokens of SCPP; 0 leaves SCPP out."""
    prepended: Prepended = Prepended()
    added: Added | None = Added()
    """null leaves SCAP out."""

    def starts(self) -> Mapping[str, str | None]:
        parts = (self.prepended, self.added)
        return {f"{part.part}.init": part.init for part in parts if part is not None}

    @model_validator(mode="after")
    def _affordable(self) -> "Accept":
        if self.length == 0 and self.added is None:
            raise ValueError("length: got 0, with added: null; allowed: at least one of the two")
        _leave_room(self.length, self.budget, adds=self.added is not None)
        return self

    def shape(self, *, hidden: int, positions: int, **_: Any) -> PromptShape:
        prepended = added = None
        if self.length:
            own = self.length * hidden
            prepended = self.prepended.shape(tokens=self.length, hidden=hidden, budget=own)
        if self.added:
            rest = (self.budget - self.length) * hidden
            added = self.added.shape(tokens=positions, hidden=hidden, budget=rest)
        return PromptShape(hidden, self.length, positions, prepended=prepended, added=added)


class PromptTuning(PromptMethod):
    """PT: plain prompt tuning, `budget` free prompt tokens (Lester et al. 2021)."""

    rates: ClassVar[dict[str, float]] = {"prepended": 0.05}
    unscaled_rates: ClassVar[dict[str, float]] = {"prepended": 3e-3}

    kind: Literal["pt"]
    budget: Count = 100
    init: Init = "vocab"

    def starts(self) -> Mapping[str, str | None]:
        return {"init": self.init}

    @property
    def tokens(self) -> int:
        return self.budget

    def shape(self, *, hidden: int, positions: int, **_: Any) -> PromptShape:
        return PromptShape(hidden, self.budget, positions)


class Dept(PromptMethod):
    """DePT: m free prompt tokens and a low-rank l x d offset (Shi and Lipani 2024)."""

    rates: ClassVar[dict[str, float]] = {"prepended": 0.05, "added": 0.004}
    unscaled_rates: ClassVar[dict[str, float]] = {"prepended": 3e-3, "added": 5e-4}

    kind: Literal["dept"]
    budget: Count = 100
    length: Count = 60
    rank: Count | None = None
    """Without it, the largest that the budget allows."""
    init: Init = "vocab"

    def starts(self) -> Mapping[str, str | None]:
        return {"init": self.init}

    @model_validator(mode="after")
    def _affordable(self) -> "Dept":
        _leave_room(self.length, self.budget, adds=True)
        return self

    def shape(self, *, hidden: int, positions: int, **_: Any) -> PromptShape:
        rest = (self.budget - self.length) * hidden
        rank = self.rank or rest // (hidden + positions)
        if rank < 1:
            raise RecipeError(
                [f"method.budget: got {self.budget}; allowed: enough for rank 1 of the added pair"]
            )
        return PromptShape(hidden, self.length, positions, rank=rank)


# --- inside the frozen model ------------------------------------------------------------

# The layers that make an attention's queries and values, where their names are not Llama's.
ATTENTION_INPUTS = {
    "t5": ("q", "v"),
    "gpt2": ("c_attn",),
    "phi3": ("qkv_proj",),
    **dict.fromkeys(("bloom", "falcon", "gpt_neox"), ("query_key_value",)),
}


class Lora(BaseMethod):
    """LoRA: a trained low-rank pair beside linear layers of the frozen model (Hu et al. 2022)."""

    rates: ClassVar[dict[str, float]] = {"lora": 3e-4}
    shape_class = LoraShape
    is_inside = True

    kind: Literal["lora"]
    rank: Count = 8
    alpha: Positive | None = None
    """The pair's product is scaled by alpha / rank. Without it, rank, which is a scale of 1."""
    target_modules: Annotated[list[str], Field(min_length=1)] | None = None
    """The layers, by the last part of their names or more of it: q_proj, or self_attn.q_proj.
    Without it, those of the queries and values of every attention."""

    def shape(
        self, *, model_type: str = "", linears: Sequence[LinearSize] = (), **_: Any
    ) -> LoraShape:
        default = ATTENTION_INPUTS.get(model_type, ("q_proj", "v_proj"))
        targets = self.target_modules or default
        found = {t: [x for x in linears if f".{x.name}".endswith(f".{t}")] for t in targets}
        missing = [target for target, layers in found.items() if not layers]
        if missing:
            known = ", ".join(dict.fromkeys(layer.name.rsplit(".", 1)[-1] for layer in linears))
            raise RecipeError(
                [
                    f"method.target_modules: {'got' if self.target_modules else 'means'} {target}, "
                    f"which no linear layer of this model is named; allowed: {known or 'none'}"
                    for target in missing
                ]
            )
        chosen = {layer.name for layers in found.values() for layer in layers}
        layers = tuple(layer for layer in linears if layer.name in chosen)
        return LoraShape(self.rank, self.alpha or float(self.rank), layers)


MethodSpec = Annotated[Accept | PromptTuning | Dept | Lora, Field(discriminator="kind")]

METHOD_SPECS: dict[str, type[BaseMethod]] = {
    kind_of(spec): spec for spec in get_args(get_args(MethodSpec)[0])
}
"""`method.kind` -> its class."""


def read_shape(card: Mapping[str, Any], *, where: str = "method.") -> Shape:
    """The sizes that an adapter's card has of its method; RecipeError names what is wrong in it,
    each line beginning with `where`."""
    known = METHOD_SPECS.get(str(card.get("kind")))
    if known is None:
        got = f"{where}kind: got {card.get('kind')!r}"
        raise RecipeError([f"{got}; allowed: {', '.join(METHOD_SPECS)}"])
    sizes = {name: value for name, value in card.items() if name != "kind"}
    shape = parse_section(known.shape_class, sizes, where=where)
    problems = [f"{where}{line}" for line in shape.problems()]
    if problems:
        raise RecipeError(problems)
    if isinstance(shape, PromptShape):
        theirs = "dept" if shape.rank else "accept" if shape.prepended or shape.added else "pt"
        if card["kind"] != theirs:
            got = f"{where}kind: got {card['kind']!r}, but its sizes are those of {theirs!r}"
            raise RecipeError([f"{got}; allowed: {theirs}"])
    return shape
