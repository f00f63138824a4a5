"""Bytes and seconds of a training step, from the shapes of a model and of a batch.

What autograd keeps was counted, tensor by tensor, in our layouts (saved-tensor hooks, fp32 and
bf16); what a process and its allocator take beside it was measured. benchmarks/plan.py compares
the whole with real runs. Adam's moments, gradients and the prompt are fp32.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from accept_llm.engines.facts import facts_of
from accept_llm.models.sizes import Sizes
from accept_llm.plan.lengths import Lengths
from accept_llm.recipe.model import Quantization

# What is resident in a process that trains, before data and model: Python and the libraries.
PROCESS = 430e6
VOCABULARY = 1.5e3  # bytes that a tokenizer takes for each of its tokens
CURVES = 110e6  # of drawing them at the end, when the activations are gone
ROW, ROW_TOKEN = 400, 80  # bytes of an example in memory, and of each of its tokens
CONTEXT = 0.6e9  # of CUDA on a device, and of cuBLAS's workspaces
# How many blocks' worth of activations a step's peak has above what autograd keeps: a block's
# gradients, and what stays with the allocator. Measured on the CPU, where an engine may have freed
# memory given back; on CUDA taken from there.
SLACK, SLACK_RETURNED = 3.5, 1.3
GROUPED = 1.2  # examples of about one length are padded to the longest of them (packed.py)
INT8_ROWS = 512  # rows of an int8 matrix that the CPU makes fp32 at a time (linear.py)
SCALED = 64  # inputs that share a scale (int8.py)

# Bytes of a number in a linear layer, in the embeddings and LM head; None: as `dtype`.
FORMATS: dict[str | None, tuple[float | None, float | None]] = {
    None: (None, None),
    "int8": (1.0, 1.0),
    "bnb-int8": (1.0, None),
    "bnb-nf4": (0.5 + 4 / 64, None),
}


@dataclass(frozen=True)
class Machine:
    """What one rank has."""

    device: Literal["cpu", "cuda"]
    memory: float
    """Bytes: of its GPU, or its part of the host's memory."""
    ranks: int
    rate: float
    """FLOP/s of its matrix products."""
    rate_source: str
    """How the rate is known."""
    bf16_products: bool = True
    """Whether bf16 matrices are multiplied as they are; a CPU may have to go through fp32."""

    def used_by(self, engine: str) -> int:
        """How many of the ranks an engine has."""
        return self.ranks if facts_of(engine).has_ranks else 1


@dataclass(frozen=True)
class Work:
    """What a recipe computes in a step."""

    lengths: Lengths
    prompt: int
    """m, the prepended tokens."""
    composed: int
    """Vectors that the prompt composes: m and the l positions of what is added."""
    trained: int
    inside: tuple[int, int]
    """Numbers in fp32 that modules inside the model keep: for a token of the input, and for one of
    a decoder."""
    batch: int
    """Examples of a step, all ranks together."""
    micro: int | None
    evaluated: int
    """Examples of a batch of an evaluation."""
    answer: int
    """Tokens of an answer; 0 where the head needs no text, 1 for label words."""
    choices: int
    """Answers that an evaluation scores for each example."""
    generates: bool
    packed: bool
    checkpointing: bool
    width: int
    """Bytes of a number of the activations: 2 or 4."""

    def rows(self, ranks: int) -> int:
        """Examples of one rank's forward pass."""
        share = math.ceil(self.batch / ranks)
        return min(self.micro or share, share)

    def passes(self, ranks: int) -> int:
        return math.ceil(math.ceil(self.batch / ranks) / self.rows(ranks))


@dataclass(frozen=True)
class Placement:
    """How the frozen weights are held: see recipe/engine.py."""

    engine: str
    quantization: Quantization | None
    offload: bool = False
    shard_size: int | None = None
    in_fp32: bool = False
    """Shards are made fp32 to be gathered and computed."""


@dataclass(frozen=True)
class Estimate:
    """Bytes on one rank's device while it trains; its host memory; a step's time and traffic."""

    engine: str
    quantization: Quantization | None
    weights: float
    activations: float
    trained: float
    """Prompt, head, their gradients, Adam's moments, and what the prompt composes."""
    buffers: float
    """Gathered weights, dequantised weights, and the message of the gradients."""
    process: float
    host: float
    """Of all ranks together, the weights on the CPU included."""
    seconds: float
    traffic: float
    """Bytes of weights that a rank receives in a step."""

    @property
    def total(self) -> float:
        return self.weights + self.activations + self.trained + self.buffers + self.process


def estimate(sizes: Sizes, work: Work, *, machine: Machine, placement: Placement) -> Estimate:
    """One row of the plan."""
    engine, cpu = placement.engine, machine.device == "cpu"
    facts, ranks = facts_of(engine), machine.used_by(engine)
    shards = min(placement.shard_size or ranks, ranks) if facts.gathers else 1
    whole = weight_bytes(sizes, placement.quantization, width=work.width)
    gathered = whole
    if placement.in_fp32 and work.width == 2:
        gathered, work = 2 * whole, replace(work, width=4)
    buffers = 8.0 * work.trained if ranks > 1 else 0.0
    if facts.gathers == "layer":
        # The CPU keeps one layer beside the shards; a GPU gathers the next one early.
        buffers += (2 if cpu else 3) * sizes.largest_part * gathered / sizes.parameters
    elif facts.gathers == "matrix":
        buffers += 2 * sizes.largest_matrix * gathered / sizes.parameters
    if placement.quantization is not None:
        buffers += _dequantisation(sizes, machine, work=work)
    rows = work.rows(ranks)
    slack = SLACK if cpu and not facts.returns_memory else SLACK_RETURNED
    kept, block = count_saved(sizes, work, machine=machine, rows=rows)
    kept += count_inside(sizes, work, rows=rows)
    activations = max(kept + slack * block, estimate_evaluation(sizes, work, machine=machine))
    data = work.lengths.rows * (ROW + ROW_TOKEN * work.lengths.mean)
    process, here = PROCESS + VOCABULARY * sizes.vocab + data, whole / shards
    if cpu:
        activations = max(activations, _loading(sizes, placement), CURVES)
        host = here + activations + buffers + process + 16.0 * work.trained
    else:
        loaded = whole if shards == 1 and placement.quantization is None else 0.0
        host = process + max(loaded, here if placement.offload else 0.0)
    return Estimate(
        engine=engine,
        quantization=placement.quantization,
        weights=0.0 if placement.offload and not cpu else here,
        activations=activations,
        trained=16.0 * work.trained + 16.0 * work.composed * sizes.hidden,
        buffers=buffers,
        process=process if cpu else CONTEXT,
        host=ranks * host,
        seconds=work.passes(ranks) * count_flops(sizes, work, rows=rows) / machine.rate,
        traffic=2 * work.passes(ranks) * gathered * (shards - 1) / shards,
    )


def weight_bytes(sizes: Sizes, quantization: Quantization | None, *, width: int) -> float:
    """Bytes of all frozen weights, whole; activations of `width` bytes a number."""
    linear, words = FORMATS[quantization]
    scale = width / SCALED if quantization == "int8" else 0.0
    matrices = sizes.linear * (width if linear is None else linear + scale)
    vocabulary = (sizes.words + sizes.head) * (width if words is None else words + scale)
    return matrices + vocabulary + sizes.norms * width


def _dequantisation(sizes: Sizes, machine: Machine, *, work: Work) -> float:
    """The largest piece of a matrix that is not in 8 bits while it is used."""
    widest = max(sizes.ffn, sizes.inner, sizes.hidden)
    if machine.device == "cpu":
        return INT8_ROWS * widest * 4
    return max(sizes.head or sizes.words, sizes.hidden * widest) * work.width


def _loading(sizes: Sizes, placement: Placement) -> float:
    """The mapped pages of a bf16 file, while from_pretrained copies it."""
    whole = facts_of(placement.engine).loads_whole and placement.quantization != "int8"
    return 2.0 * sizes.parameters if whole else 0.0


# --- activations ------------------------------------------------------------------------


def count_saved(sizes: Sizes, work: Work, *, machine: Machine, rows: int) -> tuple[float, float]:
    """Bytes that autograd keeps of a forward pass of `rows` examples, and of one block of it."""
    answers = rows * work.answer
    logits = answers * sizes.vocab * (12 if work.width == 4 else 14)
    if sizes.decoder_layers:
        kept, block = _encoder_decoder(sizes, work, rows=rows)
        return kept + logits, block
    if work.packed:
        tokens = work.prompt + work.lengths.tokens(rows) + answers
        keys = rows * work.prompt + tokens
    else:
        tokens = keys = rows * (work.prompt + work.lengths.longest + work.answer)
    block = _block(sizes, work, machine=machine, tokens=tokens, keys=keys)
    if work.checkpointing:
        return (sizes.layers * work.width + 4) * tokens * sizes.hidden + block + logits, block
    return sizes.layers * block + 4 * tokens * sizes.hidden + logits, block


def count_inside(sizes: Sizes, work: Work, *, rows: int) -> float:
    """Bytes that a method inside the model keeps of a forward pass: fp32 copies of its inputs."""
    of_input, of_decoder = work.inside
    if work.packed:
        tokens = work.prompt + work.lengths.tokens(rows) + rows * work.answer
    else:
        tokens = rows * (work.prompt + work.lengths.longest)
    kept = 4.0 * (tokens * of_input + rows * max(1, work.answer) * of_decoder)
    blocks = sizes.layers + sizes.decoder_layers
    return kept / blocks if work.checkpointing else kept  # one block's at a time


def _block(sizes: Sizes, work: Work, *, machine: Machine, tokens: int, keys: int) -> float:
    """One causal layer: the inputs of two norms in fp32, the feed-forward part's three (two)
    activations, and query, key, value and output of the attention."""
    s, active = work.width, min(sizes.experts, 2)
    rest = tokens * (8 * sizes.hidden + (3 if sizes.gated else 2) * sizes.ffn * s * active)
    if work.packed:
        seen = 4 if machine.device == "cpu" and not machine.bf16_products else s
        longest, shared = work.lengths.longest, sizes.heads // sizes.key_heads
        masks = 1.8 * shared * longest * (work.prompt + longest)  # of groups ever shorter
        return rest + seen * (2 * GROUPED * (tokens * sizes.inner + keys * sizes.keys) + masks)
    return rest + tokens * s * 2 * (sizes.inner + sizes.keys)


def _encoder_decoder(sizes: Sizes, work: Work, *, rows: int) -> tuple[float, float]:
    """T5: the norms' inputs in fp32 (in bf16 also as they are), the feed-forward part (a gated
    one keeps six activations), the attentions, and the bias of each with its mask."""
    s, length = work.width, work.prompt + work.lengths.longest
    positions, answer = rows * length, max(1, work.answer)
    norm = sizes.hidden * (4 + (s if s == 2 else 0))
    feed_forward = (6 if sizes.gated else 2) * sizes.ffn * s
    layer = positions * (2 * norm + feed_forward + 4 * sizes.inner * s)
    layer += rows * sizes.heads * length**2 * s
    crossed = positions * 2 * sizes.inner * s
    answered = rows * answer * (3 * norm + feed_forward + 8 * sizes.inner * s)
    decoder = crossed + answered + rows * sizes.heads * answer * length * s
    block = max(layer, decoder)
    if work.checkpointing:
        inputs = positions * (sizes.layers + 1) + rows * answer * sizes.decoder_layers
        return inputs * sizes.hidden * s + block, block
    return sizes.layers * layer + sizes.decoder_layers * decoder, block


def estimate_evaluation(sizes: Sizes, work: Work, *, machine: Machine) -> float:
    """Bytes of the longest batch without gradients: what one layer holds at a time, the logits,
    and the keys and values of a model that writes."""
    rows = work.evaluated * (1 if sizes.decoder_layers else work.choices)
    longest = work.lengths.longest
    lengths = replace(work.lengths, mean=longest, spread=0.0)
    once = replace(work, checkpointing=False, answer=0, lengths=lengths)
    one = replace(sizes, layers=1, decoder_layers=min(1, sizes.decoder_layers))
    total = count_saved(one, once, machine=machine, rows=rows)[0]
    total += work.evaluated * work.choices * work.answer * sizes.vocab * 12
    length = longest + work.prompt + work.answer
    cached = 2 * sizes.keys * length * (sizes.decoder_layers or sizes.layers) * work.width
    return total + (work.evaluated * cached if work.generates else 0)


# --- time -------------------------------------------------------------------------------


def count_flops(sizes: Sizes, work: Work, *, rows: int) -> float:
    """Multiplications and additions of a pass: the linear layers forward, and once more for the
    gradient of their inputs; attention's own products are left out."""
    answers = rows * work.answer
    shared = work.prompt if work.packed else rows * work.prompt
    each = work.lengths.mean if work.packed else float(work.lengths.longest)
    tokens = shared + rows * each
    part = sizes.layers * (sizes.attention + sizes.feed_forward / max(1, sizes.experts / 2))
    total = 4.0 * tokens * part + 4.0 * answers * sizes.words
    if sizes.decoder_layers:
        crossed = 2 * sizes.hidden * sizes.inner
        rest = 2 * sizes.attention + sizes.feed_forward - crossed
        steps = rows * max(1, work.answer)
        total += 4.0 * sizes.decoder_layers * (tokens * crossed + steps * rest)
    return total * (1.5 if work.checkpointing else 1.0)
