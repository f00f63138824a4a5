"""Whether a swarm computes what the model computes elsewhere: a text's last state, recorded where
the whole model was at hand, with the adapter or with the model, and compared on connecting.

It finds what no config and no file name shows: other rotary settings, other weights under one name.
Knows no engine.
"""

import base64
import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from accept_llm.backbones.base import Backbone
from accept_llm.data.batches import Batch
from accept_llm.errors import RecipeError
from accept_llm.methods.base import Composed
from accept_llm.models.folder import ModelInfo, fingerprint
from accept_llm.recipe.model import ModelSpec
from accept_llm.storage import cache_dir, in_cache, read_json, write_json

FILE = "accept_probe.json"  # in a model folder
TEXT = (
    "When the ferry reached the far shore it was already dark, and the two travellers who had "
    "spoken of nothing but the price of wool since morning found that neither of them knew the "
    "way to the inn. They asked a boy; he pointed at 3 lights on the hill, and ran."
)
TOKENS = 64
WIDTH = 256  # numbers of the state that are kept
# Relative distance of two states that are one, by the coarser of the two sides.
NEAR = {"fp32": 1e-3, "bf16": 0.05, "int8": 0.1, "bnb-int8": 0.15, "bnb-nf4": 0.5}


@dataclass(frozen=True)
class Probe:
    """What a model made of the text."""

    kind: str
    """What the weights were: a key of NEAR."""
    tokens: str
    """SHA-256 of the text's token ids."""
    state: str
    """The beginning of the final state at the last token: little-endian fp32 in base64."""

    def vector(self) -> Tensor:
        """The numbers of `state` (n,)."""
        return torch.frombuffer(bytearray(base64.b64decode(self.state)), dtype=torch.float32)


def kind_of(spec: ModelSpec) -> str:
    """What the weights are, for `Probe.kind`."""
    return spec.quantization or spec.dtype


@torch.no_grad()
def take(
    backbone: Backbone, tokenizer: Any, *, info: ModelInfo, kind: str, device: torch.device
) -> Probe:
    """What `backbone`, of `info`, computes for the text. Sharded, all ranks must take part."""
    ids = tokenizer(TEXT)["input_ids"][: min(TOKENS, info.max_positions or TOKENS)]
    none = torch.zeros(1, dtype=torch.int64)
    batch = Batch(("probe",), torch.tensor(ids), torch.tensor([len(ids)]), none, none[None, :0])
    states = backbone(batch.to(device), Composed(None, None), reads="states")
    numbers = states[0, :WIDTH].float().cpu().numpy().astype("<f4").tobytes()
    tokens = hashlib.sha256(json.dumps(ids).encode()).hexdigest()
    return Probe(kind, tokens, base64.b64encode(numbers).decode())


def record(probe: Probe, info: ModelInfo) -> Path:
    """Keeps it in the model's folder, or in the cache where that cannot be written to."""
    with contextlib.suppress(OSError):
        return _write(probe, info.folder / FILE)
    return in_cache(lambda cache: _write(probe, _in_cache(info, cache)))


def _write(probe: Probe, path: Path) -> Path:
    write_json(path, asdict(probe))
    return path


def _in_cache(info: ModelInfo, cache: Path) -> Path:
    return cache / "probes" / f"{fingerprint(info.files)[:16]}.json"


Recorded = tuple[Mapping[str, Any], Path]
"""A probe as an adapter's card holds it, and the adapter's folder."""


def find(info: ModelInfo, recorded: Recorded | None = None) -> tuple[Probe, Path] | None:
    """The reference, the adapter's or else the model's, and where it lies; RecipeError for one that
    is damaged."""
    if recorded is not None:
        return _probe(*recorded), recorded[1]
    for path in (info.folder / FILE, _in_cache(info, cache_dir())):
        if path.is_file():
            try:
                return _probe(read_json(path), path), path
            except ValueError as error:
                raise RecipeError([f"{error}; remove it, and record it again"]) from None
    return None


def _probe(data: Any, path: Path) -> Probe:
    try:
        probe = Probe(**data)
        if probe.kind in NEAR and len(probe.vector()):
            return probe
    except (TypeError, ValueError, RuntimeError):
        pass
    raise RecipeError([f"{path}: its record of what the model computes is damaged"])


def check_recorded(found: Probe, info: ModelInfo, *, recorded: Recorded | None = None) -> str:
    """Compares what a swarm computes with the reference, and says what came of it; RecipeError
    where they differ."""
    reference = find(info, recorded)
    if reference is None:
        todo = "`accept-llm swarm record MODEL`, where the whole model fits, makes one"
        return f"note: no reference of this model: what the swarm computes is not checked; {todo}"
    wanted, path = reference
    far = check(found, wanted, source=path)
    return f"the swarm computes what {path} says (relative distance {far:.1g})"


def check(found: Probe, reference: Probe, *, source: Path) -> float:
    """The distance; RecipeError where the swarm's states are not the reference's."""
    if found.tokens != reference.tokens:
        raise RecipeError(
            [
                f"model: its tokenizer gives the probe text other tokens than it did for {source}; "
                "allowed: the tokenizer that the adapter or model was made with"
            ]
        )
    allowed = max(NEAR[found.kind], NEAR[reference.kind])
    far = distance(found.vector(), reference.vector())
    if not far <= allowed:
        raise RecipeError(
            [
                f"engine.peers: the swarm's states differ from those in {source} by {far:.2g} of "
                f"their length ({found.kind} against {reference.kind}; allowed: {allowed}): other "
                "weights, or a config that its servers read otherwise (rotary settings)"
            ]
        )
    return far


def distance(state: Tensor, other: Tensor) -> float:
    """|a - b| / |b|; infinite where one has another size or is not finite."""
    if state.shape != other.shape or not bool(state.isfinite().all()):
        return float("inf")
    return float((state - other).norm() / other.norm())
