"""The training section of a recipe: optimizer, schedule and loop."""

from typing import Any

from pydantic import model_validator

from accept_llm.recipe.types import Count, Positive, Rate, Size, Spec

# --- training ---------------------------------------------------------------------------


class LearningRates(Spec):
    """The peak learning rate of each group of parameters."""

    prepended: Rate = 3e-3
    added: Rate = 5e-4
    head: Rate = 1e-3


class WeightDecays(Spec):
    """AdamW's weight decay of each group of parameters."""

    prepended: Rate = 0.0
    added: Rate = 0.0
    head: Rate = 0.0


BATCH_SIZE = 32


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
    lr: LearningRates = LearningRates()
    weight_decay: WeightDecays = WeightDecays()
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
        return self
