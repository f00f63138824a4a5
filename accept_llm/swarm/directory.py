"""Who serves what in a swarm, read from its distributed hash table. Needs Petals."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from accept_llm.errors import RecipeError
from accept_llm.models.folder import ModelInfo
from accept_llm.recipe.engine import check_addresses
from accept_llm.recipe.model import ModelSpec
from accept_llm.swarm.bridge import import_petals

_MODELS = "_petals.models"  # where Petals' servers announce the models of a swarm
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
_FORMATS: dict[str | None, str] = {None: "none", "bnb-int8": "int8", "bnb-nf4": "nf4"}


@dataclass(frozen=True)
class ServerEntry:
    """What one server holds of a model: the blocks [start, end)."""

    peer: str
    start: int
    end: int
    dtype: str | None
    weights: str | None
    """How Petals names it: none, int8 or nf4."""
    name: str | None
    joining: bool = False
    """Still loading its blocks."""


def open_directory(peers: Sequence[str], *, timeout: float, field: str = "engine.peers") -> Any:
    """A hivemind.DHT that only reads; RecipeError where no peer can be reached in `timeout` s."""
    if not peers:
        how = "the address that launchers/petals_server.py prints"
        raise RecipeError([f"{field}: got none; allowed: at least one, {how}"])
    import_petals()
    knock(peers, timeout, field=field)
    from hivemind import DHT

    try:
        dht = DHT(
            initial_peers=list(peers),
            client_mode=True,
            num_workers=32,
            startup_timeout=timeout,
            start=True,
        )
        _end_with_this_process(dht)
        return dht
    except Exception as error:  # hivemind passes on what its daemon or its event loop raised
        message = f"{type(error).__name__}: {error}".strip().splitlines()[0].rstrip(": ")
        raise RecipeError(
            [
                f"{field}: got {list(peers)}; somebody listens there, but no such server of a "
                f"swarm answers ({message}); allowed: the whole address as the server prints it now"
            ]
        ) from None


# Waits for the death of its parent, which sends SIGTERM, and ends the processes named.
_WATCH = """
import ctypes, os, signal, sys
parent, *others = map(int, sys.argv[1:])
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == parent:
    signal.sigwait([signal.SIGTERM])
for pid in others:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""


def _end_with_this_process(dht: Any) -> None:
    """hivemind's process and its daemon would live on where this process is killed (Linux only)."""
    if sys.platform != "linux":
        return
    children = psutil.Process(dht.pid).children(recursive=True)
    pids = [str(pid) for pid in (os.getpid(), dht.pid, *(child.pid for child in children))]
    subprocess.Popen([sys.executable, "-c", _WATCH, *pids], stdin=subprocess.DEVNULL)


def knock(peers: Sequence[str], timeout: float, *, field: str = "engine.peers") -> None:
    """RecipeError where nobody listens at any of the addresses: hivemind would try for its whole
    timeout, and not say so."""
    closed = []
    check_addresses(peers, field)
    for peer in peers:
        _, _, host, transport, port, *_ = peer.split("/")
        if transport != "tcp":
            return
        try:
            socket.create_connection((host, int(port)), timeout=timeout).close()
            return
        except OSError as error:
            closed.append(f"{host}:{port} ({error.strerror or error})")
    raise RecipeError(
        [
            f"{field}: got {list(peers)}; nobody answers at {', '.join(closed)}; allowed: an "
            "address of a server that runs, as it printed it"
        ]
    )


def find_servers(dht: Any, name: str, *, blocks: int) -> list[ServerEntry]:
    """The servers of a model, in the order of their blocks."""
    from petals.data_structures import ServerState
    from petals.utils.dht import compute_spans, get_remote_module_infos

    infos = get_remote_module_infos(dht, [f"{name}.{i}" for i in range(blocks)], latest=True)
    spans = compute_spans(infos, min_state=ServerState.JOINING)
    found = [
        ServerEntry(
            str(peer),
            span.start,
            span.end,
            span.server_info.torch_dtype,
            span.server_info.quant_type,
            span.server_info.public_name,
            span.state == ServerState.JOINING,
        )
        for peer, span in spans.items()
    ]
    return sorted(found, key=lambda s: (s.start, s.end, s.peer))


def models(dht: Any) -> dict[str, int]:
    """The models that the swarm's servers have announced, and their numbers of blocks."""
    found = dht.get(_MODELS, latest=True)
    if found is None or not isinstance(found.value, dict):
        return {}
    values = {str(name): entry.value for name, entry in found.value.items()}
    return {
        name: int(value["num_blocks"])
        for name, value in values.items()
        if isinstance(value, dict) and isinstance(value.get("num_blocks"), int)
    }


def find_missing(servers: Sequence[ServerEntry], blocks: int) -> list[int]:
    """The blocks that no server is ready to compute."""
    present = {i for s in servers if not s.joining for i in range(s.start, s.end)}
    return [i for i in range(blocks) if i not in present]


def ranges(blocks: Sequence[int]) -> str:
    """[0, 1, 2, 5] -> "0:3, 5:6", as --blocks takes them."""
    parts: list[list[int]] = []
    for block in blocks:
        if parts and parts[-1][1] == block:
            parts[-1][1] += 1
        else:
            parts.append([block, block + 1])
    return ", ".join(f"{start}:{end}" for start, end in parts)


def check_servers(dht: Any, name: str, *, info: ModelInfo, spec: ModelSpec) -> list[ServerEntry]:
    """The servers of a model under its name in the swarm; RecipeError unless they hold all of its
    blocks, each in the recipe's dtype and quantization."""
    blocks, what = info.layers, info.folder.name
    servers = find_servers(dht, name, blocks=blocks)
    gone = find_missing(servers, blocks)
    if len(gone) == blocks and not servers:
        others = ", ".join(models(dht)) or "none"
        raise RecipeError(
            [
                f"engine.peers: this swarm does not serve {name} ({what}); models that it serves: "
                f"{others}; allowed: a swarm of this model's own weights, or engine.prefix"
            ]
        )
    if gone:
        joining = [i for s in servers if s.joining for i in range(s.start, s.end)]
        loading = [i for i in gone if i in joining]
        wait = f" ({ranges(loading)} are being loaded)" if loading else ""
        raise RecipeError(
            [
                f"engine.peers: nobody serves the blocks {ranges(gone)} of the {blocks} of "
                f"{what}{wait}; start: launchers/petals_server.py MODEL --blocks "
                f"{ranges(gone).split(',')[0]} --peers ADDRESS"
            ]
        )
    held = spec.quantization
    lines = [
        f"{field}: got {asked!r}, but the server {short(s.peer)} of the blocks {s.start}:{s.end} "
        f"holds {theirs}; allowed: what all servers of the swarm hold"
        for s in servers
        for field, asked, wanted, theirs in (
            ("model.dtype", spec.dtype, DTYPES[spec.dtype], s.dtype),
            ("model.quantization", held or "null", _FORMATS[held], s.weights),
        )
        if theirs is not None and theirs != wanted
    ]
    if lines:
        raise RecipeError(lines)
    return servers


def short(peer: str) -> str:
    """The end of a peer's id, which is what tells peers apart."""
    return f"...{peer[-8:]}"


def print_status(name: str, blocks: int, *, servers: Sequence[ServerEntry]) -> None:
    """A model's servers, for a person to read."""
    gone = find_missing(servers, blocks)
    print(f"{name}: {blocks} blocks, {f'missing {ranges(gone)}' if gone else 'complete'}")
    for s in servers:
        parts = [f"  {s.start}:{s.end}", s.peer, s.dtype or "?"]
        parts += [s.weights] if s.weights not in (None, "none") else []
        parts += [repr(s.name)] if s.name else []
        print("  ".join([*parts, *(["loading"] if s.joining else [])]))
