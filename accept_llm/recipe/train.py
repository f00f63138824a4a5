"""The training section of a recipe: optimizer, schedule and loop."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from accept_llm.recipe.types import Count, Positive, Rate, Size, Spec

HEAD = "head"  # the group of the head's parameters
HEAD_RATE = 1e-3

_NUMBER = {"type": "number", "minimum": 0, "maximum": 1e30}


def _number_or_groups(value: Any) -> Any:
    """A single number is made a mapping by the recipe, which knows the method's groups."""
    if value is None or isinstance(value, Mapping):
        return value or {}
    try:
        TypeAdapter(Rate).validate_python(value)
    except ValidationError:
        allowed = "a number of at least 0, or a mapping of groups to such; none above 1e30"
        raise ValueError(allowed) from None
    return {}


Groups = Annotated[
    dict[str, Rate],
    BeforeValidator(_number_or_groups),
    WithJsonSchema({"anyOf": [_NUMBER, {"type": "object", "additionalProperties": _NUMBER}]}),
]
"""A number for each group of trained parameters: those of the method, and `head`."""


def fill_groups(given: Any, defaults: Mapping[str, float]) -> Any:
    """A value of every group, out of what a recipe gives: a mapping of some of them, or one number
    for the groups of the method but not for the head. What is neither is left as it is."""
    if given is None or isinstance(given, Mapping):
        return {**defaults, **(given or {})}
    try:
        number = TypeAdapter(Rate).validate_python(given)
    except ValidationError:
        return given
    return {name: rate if name == HEAD else number for name, rate in defaults.items()}


BATCH_SIZE = 32
LARGEST_BUCKET = 10_000_000  # examples that are drawn and sorted together


class Train(Spec):
    """The optimizer, the schedule and the loop. Batches are global: all ranks together."""

    steps: Count
    batch_size: Count | None = None
    """Examples of a batch; 32 where tokens_per_batch is not given either."""
    tokens_per_batch: Count | None = None
    """In place of batch_size: as many examples as have so many tokens, the prompt not counted."""
    micro_batch_size: Count | None = None
    """Examples of one rank in one forward pass; gradients accumulate up to batch_size."""
    bucket: Count | None = None
    """Batches that are drawn together, sorted by length and shuffled, so that little is padded;
    1 draws each for itself. Without it, 32 for an encoder-decoder and 1 for a causal LM."""
    lr: Groups = Field(default_factory=dict)
    """Peak learning rate: of each group of parameters, or one number for all groups of the method.
    Without it, the method's own; 1e-3 for the head."""
    weight_decay: Groups = Field(default_factory=dict)
    """AdamW's weight decay, as `lr`. Without it, 0."""
    warmup_steps: Size = 0
    clip_norm: Positive | None = 1.0
    """Largest gradient norm, over all groups together; null does not clip."""
    eval_every: Count = 1000
    eval_batch_size: Count = 32
    save_every: Count | None = None
    """Steps between resumable states; without it, at every evaluation."""
    patience: Count | None = None
    """Stop after this many evaluations in a row without a better score."""
    log_every: Count = 10
    seed: Size = 42
    tensorboard: bool = False
    """Also write TensorBoard events (the extra `report`)."""

    @model_validator(mode="before")
    @classmethod
    def _default_size(cls, data: Any) -> Any:
        sized = ("batch_size", "tokens_per_batch")
        if not isinstance(data, dict) or any(data.get(name) is not None for name in sized):
            return data
        return {**data, "batch_size": BATCH_SIZE}

    @property
    def size(self) -> int:
        """Examples of a batch, where tokens_per_batch does not decide."""
        assert self.batch_size is not None
        return self.batch_size

    @model_validator(mode="after")
    def _fits(self) -> "Train":
        if self.batch_size is not None and self.tokens_per_batch is not None:
            raise ValueError(
                f"tokens_per_batch: got {self.tokens_per_batch} and batch_size "
                f"{self.batch_size}; allowed: one of the two"
            )
        micro = self.micro_batch_size
        if self.tokens_per_batch is None and micro is not None and micro > self.size:
            raise ValueError(
                f"micro_batch_size: got {micro}; allowed: at most train.batch_size ({self.size})"
            )
        if self.bucket is not None and self.bucket * (self.batch_size or 1) > LARGEST_BUCKET:
            most = max(1, LARGEST_BUCKET // (self.batch_size or 1))
            what = f"at most {most} of such batches, {LARGEST_BUCKET:,} examples"
            raise ValueError(f"bucket: got {self.bucket}; allowed: {what}")
        return self
