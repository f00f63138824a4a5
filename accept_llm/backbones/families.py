"""Which families of causal models are known to be read rightly, and how others are found out."""

import torch

from accept_llm.backbones.base import Backbone, Layout
from accept_llm.backbones.causal import CausalBackbone
from accept_llm.data.batches import collate
from accept_llm.data.encoding import Encoded
from accept_llm.errors import RecipeError
from accept_llm.methods.base import Composed
from accept_llm.models.families import PACKED, PADDED, read_config
from accept_llm.models.folder import CONFIG, ModelInfo

NEAR = 0.05
"""The part of the reference that rounding in bf16 may change; misreading changes about all."""


def choose_layout(
    info: ModelInfo, *, asked: Layout | None, longest: int, device: str = "cpu"
) -> Layout:
    """The layout that was asked for, else packed for a causal LM and padded for others.

    Raises RecipeError where packed could give other states than padded, and where the device has
    no kernel for it; `longest` is the prompt and the longest input together.
    """
    layout = asked or ("padded" if info.architecture == "seq2seq" else "packed")
    if layout == "padded":
        return layout
    problem = ""
    window = getattr(read_config(info), "sliding_window", None)
    if info.model_type not in PACKED:
        problem = f"allowed for {info.model_type}: padded (packed: {', '.join(PACKED)})"
    elif window is not None and window < longest:
        problem = (
            f"the model's attention window ({window}) is shorter than prompt and input "
            f"({longest}); allowed: padded, or a smaller task.max_length"
        )
    elif layout == "packed_flex" and device != "cuda":
        problem = f"FlexAttention has no gradient on a device of type {device}; allowed: packed"
    if problem:
        got = f"got {asked!r}" if asked else "not given, which means packed"
        raise RecipeError([f"model.layout: {got}; {problem}"])
    return layout


@torch.no_grad()
def check_held(backbone: CausalBackbone, info: ModelInfo, *, device: torch.device) -> None:
    """Reads two short texts in one batch of ours, and each alone by the model's own forward: of a
    family that no test holds to it, RecipeError where they differ. Sharded, it is a collective."""
    if info.model_type in PADDED:
        return
    rows = [Encoded(str(n), tuple(range(3, 3 + n)), 0) for n in (2, 5)]
    both, *alone = (collate(some).to(device) for some in (rows, rows[:1], rows[1:]))
    prompt = Composed(None, None)
    try:
        read = {reads: backbone(both, prompt, reads=reads) for reads in ("logits", "states")}
        own = {
            "logits": [backbone.module(one.tokens[None], reads="own")[-1:] for one in alone],
            "states": [backbone(one, prompt, reads="states") for one in alone],
        }
    except Exception as error:  # whatever a family's own code raises
        raise _refusal(info, f"{type(error).__name__}: {error}") from error
    for reads, got in read.items():
        want = torch.cat(own[reads])
        if not (got - want).norm() <= NEAR * want.norm():
            why = f"its {reads} of a text in a batch are not those of the text alone"
            raise _refusal(info, why)


@torch.no_grad()
def check_computes(backbone: Backbone, info: ModelInfo, *, device: torch.device) -> None:
    """Reads a short text: RecipeError where values of a config make the model fail, or weights make
    states of it that are no numbers. Sharded, it is a collective."""
    tokens = tuple(min(token, info.vocab_size - 1) for token in (3, 4, 5))
    batch = collate([Encoded("0", tokens, 0)]).to(device)
    try:
        states = backbone(batch, Composed(None, None), reads="states")
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a family's own code raises
        raise _refusal(info, f"{type(error).__name__}: {error}") from error
    if not states.isfinite().all():
        got = f"model: {info.folder}: its states of a text are not finite"
        raise RecipeError([f"{got}; allowed: weights and a {CONFIG} that are whole"])


def _refusal(info: ModelInfo, why: str) -> RecipeError:
    got = f"model: {info.folder} is of type {info.model_type!r}, which cannot be used"
    return RecipeError([f"{got} ({why}); allowed: {', '.join((*PADDED, 't5'))}"])
