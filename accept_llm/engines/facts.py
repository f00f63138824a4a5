"""What is known of each engine before it is opened: the one table that checks, plan and command
line read. A new engine has a row here, a section in recipe/engine.py and a module beside this one.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the recipe's classes take longer to make than all of `accept-llm --help`
    from accept_llm.recipe.model import Quantization

ALONE = "single"  # one process, no launcher: what `accept-llm train` runs
SHARDED = "fsdp2"  # what the plan proposes where one device is too small
SWARM = "petals"


@dataclass(frozen=True)
class EngineFacts:
    """A row of the table."""

    command: str
    """What a person types to train with it."""
    place: str
    """Its class, imported when a run asks for it."""
    quantizations: "tuple[Quantization | None, ...]"
    """What it can hold of model.quantization."""
    package: str | None = None
    """A package that it needs, and that not every installation has."""
    is_local: bool = True
    """Whether the frozen weights lie in these processes; elsewhere others compute."""
    has_ranks: bool = True
    """Whether it runs in several processes, which a launcher starts."""
    gathers: Literal["layer", "matrix"] | None = None
    """What of a shard is gathered at a time; None where weights are not in shards."""
    compiles: bool = True
    """Whether model.compile works with it."""
    returns_memory: bool = False
    """Whether it lets freed memory go back to the system, on a CPU."""

    @property
    def loads_whole(self) -> bool:
        """Whether a process reads the whole checkpoint by transformers' own loader."""
        return self.is_local and self.gathers is None


_WHOLE: "tuple[Quantization | None, ...]" = (None, "int8", "bnb-int8", "bnb-nf4")

ENGINES: dict[str, EngineFacts] = {
    "single": EngineFacts(
        command="accept-llm train RECIPE, or python launchers/single_gpu.py RECIPE",
        place="accept_llm.engines.single.SingleEngine",
        quantizations=_WHOLE,
        has_ranks=False,
    ),
    "ddp": EngineFacts(
        command="accelerate launch --num_processes N launchers/ddp.py RECIPE",
        place="accept_llm.engines.ddp.DdpEngine",
        quantizations=_WHOLE,
    ),
    "fsdp2": EngineFacts(
        command="accelerate launch --num_processes N launchers/fsdp.py RECIPE",
        place="accept_llm.engines.fsdp2.Fsdp2Engine",
        quantizations=(None, "int8"),  # bitsandbytes' weights cannot be sharded
        gathers="layer",
        returns_memory=True,
    ),
    "zero3": EngineFacts(
        command="accelerate launch --num_processes N launchers/zero3.py RECIPE",
        place="accept_llm.engines.zero3.Zero3Engine",
        quantizations=(None,),  # DeepSpeed shards one floating-point type
        package="deepspeed",
        gathers="matrix",
        compiles=False,  # its hooks are inside the blocks
    ),
    "petals": EngineFacts(
        command=".venv-petals/bin/python launchers/petals_client.py RECIPE engine.peers=ADDRESS",
        place="accept_llm.engines.petals.PetalsEngine",
        quantizations=(None, "bnb-int8", "bnb-nf4"),  # what its servers hold
        package="petals",
        is_local=False,
        has_ranks=False,
    ),
}

LOCAL = tuple(kind for kind, facts in ENGINES.items() if facts.is_local)
RANKED = tuple(kind for kind in LOCAL if ENGINES[kind].has_ranks)
EXTRAS = {"bitsandbytes": "quant", "deepspeed": "deepspeed"}
"""A package that not every installation has -> the extra of accept-llm that brings it."""


def facts_of(kind: str) -> EngineFacts:
    """The row of an engine."""
    assert kind in ENGINES, f"engines/facts.py has no row for {kind!r}; it has: {list(ENGINES)}"
    return ENGINES[kind]


def name_quantizations(kind: str) -> str:
    """The values of model.quantization that the engine can hold, as a recipe has them."""
    return ", ".join(value or "null" for value in facts_of(kind).quantizations)
