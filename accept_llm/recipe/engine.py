"""The engine's section of a recipe: where the frozen weights live, and with what options."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field

from accept_llm.errors import RecipeError
from accept_llm.recipe.types import Count, Positive, Spec, kind_of


class BaseEngine(Spec):
    """What every engine's section says of itself."""

    may_change: ClassVar[tuple[str, ...]] = ()
    """Fields that may differ when a run goes on: its results do not depend on them."""

    def lasting(self) -> dict[str, Any]:
        """The fields that a run must keep when it goes on."""
        return self.model_dump(exclude=set(self.may_change))


class SingleEngine(BaseEngine):
    """One process, on the CPU or on one GPU."""

    kind: Literal["single"]


class DdpEngine(BaseEngine):
    """All the frozen weights in each of several processes."""

    kind: Literal["ddp"]


def _only_wider(value: Any) -> Any:
    if value in ("bf16", "bfloat16"):
        raise ValueError("fp32, or nothing (computed in bf16: model.dtype=bf16, the same numbers)")
    return value


class Fsdp2Engine(BaseEngine):
    """The frozen weights in shards over all processes (torch's fully_shard)."""

    kind: Literal["fsdp2"]
    shard_size: Count | None = None
    """Ranks that hold one copy of the weights together, such as those of one machine; it divides
    their number. Gathers stay among them. Without it, all ranks hold one copy."""
    offload: bool = False
    """Keep this rank's shard in host memory, not on its GPU."""
    param_dtype: Annotated[Literal["fp32"] | None, BeforeValidator(_only_wider)] = None
    """fp32: shards are held in model.dtype=bf16, and made fp32 to be gathered and computed,
    activations too. Narrower than they are held is model.dtype itself: weights never change."""


class Zero3Engine(BaseEngine):
    """The frozen weights in shards over all processes (DeepSpeed's ZeRO-3; the extra
    `deepspeed`)."""

    kind: Literal["zero3"]
    offload: bool = False
    """Keep this rank's shard in host memory, not on its GPU."""


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _only_right(value: Any) -> Any:
    if value == "right":
        return value
    raise ValueError("right (Petals takes no mask: what stands before a text would be read)")


ADDRESS = re.compile(
    r"/(ip4|ip6|dns|dns4|dns6)/[^/\s]+/(tcp|udp)/\d+(/[\w.-]+)*/p2p/[1-9A-HJ-NP-Za-km-z]+"
)

ADDRESS_FORM = "/ip4/HOST/tcp/PORT/p2p/ID"


def _address(value: Any) -> Any:
    if isinstance(value, str) and ADDRESS.fullmatch(value):
        return value
    raise ValueError(f"an address as a server prints it, {ADDRESS_FORM}")


def check_addresses(peers: Sequence[str], field: str) -> None:
    """RecipeError for addresses on a command line that cannot be any."""
    wrong = [peer for peer in peers if not ADDRESS.fullmatch(peer)]
    if wrong:
        raise RecipeError([f"{field}: got {wrong}; allowed: as a server prints it, {ADDRESS_FORM}"])


Address = Annotated[str, BeforeValidator(_address)]


class PetalsEngine(BaseEngine):
    """The frozen blocks on the servers of a Petals swarm (launchers/petals_server.py); this process
    keeps embeddings, prompt and head, and sends activations and gradients."""

    may_change = (
        *("peers", "micro_batch_tokens", "in_flight", "per_server", "padding_side"),
        *("connect_timeout", "request_timeout", "retries", "wait"),
    )

    kind: Literal["petals"]
    peers: Annotated[list[Address], BeforeValidator(_one_or_more)] = Field(default_factory=list)
    """Addresses of one or more servers, as each prints its own: /ip4/HOST/tcp/PORT/p2p/ID. The
    others are found through them."""
    prefix: Annotated[str, Field(pattern=r"^[^.\s]+$")] | None = None
    """The name that the swarm serves the model under. Without it, the one that
    launchers/petals_server.py takes: the model's sizes and a fingerprint of its weights."""
    wire: Literal["bf16", "fp32"] | None = None
    """Type of the activations and gradients that are sent; what comes back has the servers' own.
    Without it, model.dtype."""
    micro_batch_tokens: Count = 1024
    """Positions in one request, prompt and padding included; rows of about one length together."""
    in_flight: Count = 6
    """Requests under way at a time, so that the servers of a chain work at the same time."""
    per_server: Count = 1
    """Of these, at one server. A server shares its time between all that it has: with 1, one is
    done before the next, and the next server can begin; 2 hides a slow network."""
    padding_side: Annotated[Literal["right"], BeforeValidator(_only_right)] = "right"
    connect_timeout: Positive = 10.0
    """Seconds to reach the swarm, and to open a connection to a server."""
    request_timeout: Positive = 120.0
    """Seconds that one server may take for one request."""
    retries: Count = 3
    """Attempts at one request, each with other servers where there are any."""
    wait: Positive = 300.0
    """Seconds to wait for blocks that nobody serves any more; then the run stops, to be resumed."""


EngineSpec = Annotated[
    SingleEngine | DdpEngine | Fsdp2Engine | Zero3Engine | PetalsEngine,
    Field(discriminator="kind"),
]

ENGINE_KINDS: tuple[str, ...] = tuple(map(kind_of, get_args(get_args(EngineSpec)[0])))
