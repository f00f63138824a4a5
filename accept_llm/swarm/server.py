"""A thin front to Petals' own server: what it may be asked, in our words, and the address that is
to be passed on."""

import contextlib
import importlib
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accept_llm.errors import Notify, RecipeError
from accept_llm.models.folder import ModelInfo
from accept_llm.ranks import end_with_parent
from accept_llm.storage import writable_cache
from accept_llm.swarm.bridge import import_petals
from accept_llm.swarm.directory import DTYPES, knock
from accept_llm.swarm.folder import petals_folder, swarm_name

FORMATS = ("bf16", "int8", "nf4")
ANNOUNCE_EVERY = 10.0  # s; a server that has died is out of the table after two of them


@dataclass(frozen=True)
class Serve:
    """What a server is asked for. `blocks`: START:END, as Python counts; None: all of them."""

    blocks: str | None = None
    peers: tuple[str, ...] = ()
    weights: str = "bf16"
    dtype: str = "bf16"
    host: str = "127.0.0.1"
    port: int = 0
    public_name: str | None = None
    prefix: str | None = None
    timeout: float = 10.0


def parse_blocks(text: str | None, count: int) -> tuple[int, int]:
    """START:END, within the model's blocks; RecipeError for anything else."""
    if text is None:
        return 0, count
    start, colon, end = text.partition(":")
    if colon and start.isdecimal() and end.isdecimal() and int(start) < int(end) <= count:
        return int(start), int(end)
    message = f"--blocks: got {text!r}; allowed: START:END with 0 <= START < END <= {count}"
    raise RecipeError([message])


def serve(info: ModelInfo, asked: Serve, *, notify: Notify) -> None:
    """Serves blocks of a local model until it is stopped (SIGINT or SIGTERM)."""
    start, end = parse_blocks(asked.blocks, info.layers)
    folder = petals_folder(info)
    name = asked.prefix or swarm_name(info)
    _check_weights(asked)
    if asked.port:
        _check_free(asked.host, asked.port)
    if asked.peers:
        knock(asked.peers, asked.timeout, field="--peers")
    import_petals()
    _own_group()
    _quiet()
    what = f"blocks {start}:{end} of {info.layers} of {info.folder.name} ({name})"
    notify(f"loading {what}, {asked.weights} weights, {asked.dtype}")
    with _identity(asked.port) as identity:
        server = _server(folder, name, blocks=(start, end), asked=asked, identity=identity)
        told = {"notify": notify}
        threading.Thread(target=_announce, args=(server, what), kwargs=told, daemon=True).start()
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            server.run()
        except KeyboardInterrupt:
            notify("stopping")
        finally:
            server.shutdown()


def _announce(server: Any, what: str, *, notify: Notify) -> None:
    """Prints a line that scripts wait for, and the address, once the server has its blocks."""
    while server.module_container is None or not server.module_container.ready.wait(0.2):
        if server.stop.wait(0.1):
            return
    notify(f"serving {what}, {_weight_bytes(server) / 1e6:.1f} MB of weights")
    notify(f"address: {_address(server.dht)}")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _server(
    folder: Path, name: str, *, blocks: tuple[int, int], asked: Serve, identity: Path
) -> Any:
    import torch
    from petals.server.server import Server
    from petals.utils.convert_block import QuantType

    formats = {"bf16": QuantType.NONE, "int8": QuantType.INT8, "nf4": QuantType.NF4}
    where = f"/ip6/{asked.host}" if ":" in asked.host else f"/ip4/{asked.host}"
    try:
        return Server(
            initial_peers=list(asked.peers),
            dht_prefix=name,
            converted_model_name_or_path=str(folder),
            public_name=asked.public_name,
            throughput=1.0,
            block_indices=f"{blocks[0]}:{blocks[1]}",
            num_handlers=min(8, max(2, os.cpu_count() or 2)),
            torch_dtype=DTYPES[asked.dtype],
            device="cuda" if torch.cuda.is_available() else "cpu",
            quant_type=formats[asked.weights],
            update_period=ANNOUNCE_EVERY,
            skip_reachability_check=True,
            reachable_via_relay=False,  # a private swarm: nobody else is asked
            use_relay=False,
            use_auto_relay=False,
            host_maddrs=[f"{where}/tcp/{asked.port}"],
            identity_path=str(identity),
            startup_timeout=asked.timeout,
        )
    except Exception as error:  # hivemind passes on what its daemon or its event loop raised
        message = f"{type(error).__name__}: {error}".strip().splitlines()[0].rstrip(": ")
        got = f"--peers: got {list(asked.peers)}; no such swarm can be joined"
        if not asked.peers:
            got = f"--host: got {asked.host}, --port {asked.port}; no swarm can be started there"
        raise RecipeError([f"{got} ({message})"]) from None


def _check_weights(asked: Serve) -> None:
    """Tries bitsandbytes' product and its gradient, in which its backends differ."""
    if asked.weights not in FORMATS:
        raise RecipeError([f"--weights: got {asked.weights!r}; allowed: {', '.join(FORMATS)}"])
    if asked.weights == "bf16":
        return
    try:
        import torch

        bnb: Any = importlib.import_module("bitsandbytes")

        device = "cuda" if torch.cuda.is_available() else "cpu"
        layers: dict[str, Callable[[], Any]] = {
            "int8": lambda: bnb.nn.Linear8bitLt(64, 64, has_fp16_weights=False, threshold=6.0),
            "nf4": lambda: bnb.nn.LinearNF4(64, 64),
        }
        layer = layers[asked.weights]().requires_grad_(False).to(device)
        x = torch.ones(2, 64, device=device, requires_grad=True)
        layer(x).sum().backward()
        works = x.grad is not None and bool(x.grad.isfinite().all())
        why = "its gradient is not finite"
    except Exception as error:  # any: a missing library, a backend without this operation
        works, why = False, f"{type(error).__name__}: {str(error).splitlines()[0]}"
    if not works:
        got = f"--weights: got {asked.weights!r}, which does not run on this machine ({why})"
        raise RecipeError([f"{got}; allowed: bf16"])


@contextlib.contextmanager
def _identity(port: int) -> Iterator[Path]:
    """The key that a server's id is made of. One for each port that was named, so that a server
    that is started again has the address it had; a new one where the port is new as well."""
    if port:
        folder = writable_cache() / "petals" / "keys"
        folder.mkdir(parents=True, exist_ok=True)
        yield folder / f"port-{port}"
    else:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch) / "key"


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            message = (
                f"--port: got {port} on {host}, which cannot be listened on ({error.strerror})"
            )
            raise RecipeError([f"{message}; allowed: a free port"]) from None


def _address(dht: Any) -> str:
    """One that others can reach, where it listens on several."""
    found = [str(a) for a in dht.get_visible_maddrs() if "p2p-circuit" not in str(a)]
    return min(found, key=lambda a: a.startswith(("/ip4/127.", "/ip6/::1/")))


def _weight_bytes(server: Any) -> int:
    """Bytes of the blocks' parameters, with what quantised ones need beside them."""
    total = 0
    for backend in server.module_container.module_backends.values():
        for parameter in backend.module.parameters():
            state = getattr(parameter, "quant_state", None)  # of nf4
            beside = list(state.as_dict(packed=True).values()) if state is not None else []
            beside.append(getattr(parameter, "SCB", None))  # int8: a scale for each row
            tensors = [parameter, *(t for t in beside if hasattr(t, "element_size"))]
            total += sum(t.numel() * t.element_size() for t in tensors)
    return total


def _own_group() -> None:
    """Petals' processes do not notice when the first of them is killed, and would keep clients
    waiting: one of them sees to it that all end together."""
    with contextlib.suppress(PermissionError):  # the leader of a session has its own group
        os.setpgid(0, 0)
    if sys.platform != "linux" or os.fork():
        return
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    while True:
        signal.pause()


def _quiet() -> None:
    """Petals says a warning for each tensor that it loads, and what it does for each request."""
    warnings.filterwarnings("ignore", message=".*no-op.*")
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in ("petals", "hivemind"):
        logging.getLogger(name).setLevel(logging.WARNING)
