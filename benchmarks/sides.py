"""What is compared: one training step of accept_llm and of PEFT's prompt tuning.

Every side has the same frozen weights, the same texts, the same loss (a linear layer on the state
of the last real token, unless it says otherwise), AdamW and gradient clipping. PEFT's side is
what a careful user would write: padded on the right, its batches laid out before the clock
starts, no cache, no LM head where no logits are read.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from accept_llm.backbones.base import Backbone, Layout
from accept_llm.backbones.causal import CausalBackbone, CausalRoot
from accept_llm.backbones.linear import needs_fp32, with_fp32_products
from accept_llm.backbones.loading import DTYPES, load_whole
from accept_llm.data.batches import collate
from accept_llm.data.encoding import Encoded
from accept_llm.heads import LinearHead
from accept_llm.methods.base import Start
from accept_llm.methods.start import sample_vocabulary
from accept_llm.methods.table import build_method
from accept_llm.models.folder import ModelInfo
from accept_llm.recipe.method import Accept, PromptTuning
from accept_llm.recipe.model import Quantization

LENGTH, POSITIONS = 60, 256  # m and l of the paper
SHARE = 0.6  # of the trained parameters that ACCEPT spends on its m tokens; the rest is SCAP's
RATE = 1e-3

Rows = Sequence[Encoded]


@dataclass(frozen=True)
class Variant:
    """One way to compute a step."""

    key: str
    name: str
    computes: str
    method: Literal["accept", "pt", "peft"]
    """accept_llm with SCPP and SCAP, accept_llm with plain prompt tuning, or PEFT."""
    m: int = LENGTH
    packed: bool = False
    flex: bool = False
    """Packed, by FlexAttention's kernels."""
    quantization: Quantization | None = None
    """accept_llm's `model.quantization`."""
    pad: int | None = None
    """Every row has so many tokens; None: as many as the longest of its batch."""
    ordered: bool = False
    """The examples are sorted by length before they are cut into batches."""
    mask: bool = True
    """PEFT gets an attention mask. A causal model that is padded on the right needs none."""
    logits: bool = False
    """PEFT's LM head runs at every position; the loss reads one token's logit for each class."""

    @property
    def layout(self) -> Layout:
        """accept_llm's name for it."""
        if self.flex:
            return "packed_flex"
        return "packed" if self.packed else "padded"

    def positions(self, rows: Rows) -> int:
        """How many positions go through the model."""
        lengths = [len(row.tokens) for row in rows]
        if self.packed:
            return self.m + sum(lengths)
        return len(rows) * (self.m + (self.pad or max(lengths)))


STATE = "linear head on the last token's state"
VARIANTS = (
    Variant("packed", "accept_llm, packed", f"SCPP + SCAP, {STATE}", "accept", packed=True),
    Variant("padded", "accept_llm, padded", f"SCPP + SCAP, {STATE}", "accept"),
    Variant("peft256", "PEFT, padded to 256", STATE, "peft", pad=POSITIONS),
    Variant("peft", "PEFT, padded to the longest", STATE, "peft"),
    Variant(
        "peft-best",
        "PEFT at its best",
        f"sorted by length, no attention mask, {STATE}",
        "peft",
        ordered=True,
        mask=False,
    ),
    Variant("peft100", "PEFT, m = 100, padded to the longest", STATE, "peft", m=100),
    Variant(
        "peft-logits",
        "PEFT, CAUSAL_LM, padded to the longest",
        "logits at every position, a token for each class",
        "peft",
        logits=True,
    ),
)
FLEX = Variant(
    "packed-flex",
    "accept_llm, packed, FlexAttention",
    f"SCPP + SCAP, {STATE}",
    "accept",
    packed=True,
    flex=True,
)  # on CUDA only
INT8 = Variant(
    "packed-int8",
    "accept_llm, packed, int8 weights",
    f"SCPP + SCAP, {STATE}",
    "accept",
    packed=True,
    quantization="int8",
)  # where it is asked for


class Side:
    """A variant on the model `lm`. `parameters` are those of the prompt, then the head's."""

    lm: Any

    def __init__(self, variant: Variant, parameters: Sequence[nn.Parameter]):
        self.variant, self.parameters = variant, list(parameters)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=RATE)

    def prepare(self, rows: Rows) -> Any:
        """What a data loader has ready; not timed."""
        raise NotImplementedError

    def loss(self, inputs: Any) -> Tensor:
        """The mean loss of the batch, differentiable in `parameters`."""
        raise NotImplementedError

    def step(self, inputs: Any) -> float:
        """Forward, backward and update: what is timed."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(inputs)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return loss.item()


class Ours(Side):
    """accept_llm, as its trainer calls it."""

    def __init__(self, variant: Variant, backbone: Backbone, *, classes: int):
        d, m = backbone.hidden_size, variant.m
        # PEFT's parameters are the vectors' own numbers too.
        spec: Accept | PromptTuning = PromptTuning(kind="pt", budget=m, scale="none")
        if variant.method == "accept":
            spec = Accept(kind="accept", length=m, budget=round(m / SHARE))
        shape = spec.shape(hidden=d, positions=POSITIONS)
        root: Any = backbone.module
        self.lm, self.backbone = root.lm, backbone
        self.device = next(root.parameters()).device
        draws = torch.Generator().manual_seed(0)
        prompt = build_method(spec, shape, start=Start(backbone.embed, backbone.vocab_size, draws))
        self.prompt = prompt.to(self.device)
        self.head = LinearHead(d, classes, bias=False).to(self.device)
        self.attention: str = self.lm.config._attn_implementation
        super().__init__(variant, [*self.prompt.parameters(), *self.head.parameters()])

    def prepare(self, rows: Rows) -> Any:
        _attend(self.lm, self.attention)
        return collate(rows).to(self.device)

    def loss(self, inputs: Any) -> Tensor:
        return self.head.losses(self.backbone, inputs, prompt=self.prompt.compose()).mean()


class Peft(Side):
    """PEFT's prompt tuning. Without logits it wraps the model below the LM head."""

    def __init__(self, variant: Variant, lm: Any, *, classes: int):
        from peft import PromptTuningConfig, PromptTuningInit, get_peft_model

        self.lm, self.device = lm, next(lm.parameters()).device
        config = PromptTuningConfig(
            task_type="CAUSAL_LM" if variant.logits else "FEATURE_EXTRACTION",
            num_virtual_tokens=variant.m,
            prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an old name
            self.model: Any = get_peft_model(lm if variant.logits else lm.base_model, config)
        self.head = LinearHead(lm.config.hidden_size, classes, bias=False).to(self.device)
        self.classes = classes
        trained = [p for p in self.model.parameters() if p.requires_grad]
        head = [] if variant.logits else self.head.parameters()
        super().__init__(variant, [*trained, *head])

    def prepare(self, rows: Rows) -> Any:
        _attend(self.lm, "sdpa")
        longest = self.variant.pad or max(len(row.tokens) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row.tokens)], mask[i, : len(row.tokens)] = torch.tensor(row.tokens), 1
        batch = collate(rows)
        last = self.variant.m + batch.lengths - 1
        return [x.to(self.device) for x in (ids, mask, last, batch.labels)]

    def scores(self, inputs: Any) -> Tensor:
        """(B, classes)."""
        ids, mask, last, _ = inputs
        out = self.model(
            input_ids=ids, attention_mask=mask if self.variant.mask else None, use_cache=False
        )
        rows = torch.arange(len(ids), device=ids.device)
        if self.variant.logits:
            return out.logits[rows, last][:, : self.classes].float()
        return self.head.scores(out.last_hidden_state[rows, last])

    def loss(self, inputs: Any) -> Tensor:
        return F.cross_entropy(self.scores(inputs), inputs[-1])

    @torch.no_grad()
    def start_from_vocabulary(self, *, seed: int) -> None:
        """Only common tokens, as Lester et al. recommend and accept_llm's plain prompt does."""
        words = self.lm.get_input_embeddings().weight
        draw = torch.Generator().manual_seed(seed)
        ids = sample_vocabulary(self.variant.m, len(words), generator=draw)
        self.parameters[0].copy_(words[ids.to(words.device)])


def _attend(lm: Any, implementation: str) -> None:
    """Sides that share a model (gpu.py) each have their own attention."""
    if lm.config._attn_implementation != implementation:
        lm.set_attn_implementation(implementation)


# --- models -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A model folder. Sides that need different attention load it for themselves."""

    info: ModelInfo
    dtype: str

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def side(self, variant: Variant, *, classes: int, plain: Any = None) -> Side:
        """`plain`: a model that PEFT's sides share."""
        if variant.method == "peft":
            return Peft(variant, plain or self.plain(), classes=classes)
        backbone = load_whole(
            self.info,
            dtype=self.dtype,
            layout=variant.layout,
            device=self.device,
            quantization=variant.quantization,
        )
        return Ours(variant, backbone, classes=classes)

    def plain(self) -> Any:
        """The model as transformers loads it. Where torch has no fast bf16 product, PEFT gets
        accept_llm's faster linear layers too: the layouts are compared, not slow loops of torch."""
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        lm: Any = AutoModelForCausalLM.from_pretrained(self.info.folder, dtype=DTYPES[self.dtype])
        lm.requires_grad_(False).eval().to(self.device)
        if needs_fp32(self.device, DTYPES[self.dtype]):
            with_fp32_products(lm)
        return lm


def on_shared_model(variant: Variant, lm: Any, *, dtype: torch.dtype, classes: int) -> Side:
    """A side on a model that others use too, one after another: there may be room for one only."""
    if variant.method == "peft":
        return Peft(variant, lm, classes=classes)
    _attend(lm, "sdpa")
    backbone = CausalBackbone(CausalRoot(lm), config=lm.config, dtype=dtype, layout=variant.layout)
    return Ours(variant, backbone, classes=classes)
