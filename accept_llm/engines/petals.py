"""A Petals swarm: the blocks are on its servers, the ends of the model, prompt and head here."""

import contextlib
import logging
import sys
import time
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from accept_llm.backbones.base import Backbone, BackboneError, Layout
from accept_llm.backbones.linear import needs_fp32, with_fp32_products
from accept_llm.backbones.loading import DTYPES
from accept_llm.backbones.remote import Ends, RemoteBackbone
from accept_llm.errors import RecipeError
from accept_llm.models.folder import ModelInfo
from accept_llm.ranks import wants_cpu
from accept_llm.recipe.engine import PetalsEngine as PetalsSpec
from accept_llm.recipe.model import ModelSpec
from accept_llm.swarm.bridge import import_petals
from accept_llm.swarm.chain import Chain
from accept_llm.swarm.directory import (
    check_servers,
    find_missing,
    find_servers,
    open_directory,
    ranges,
)
from accept_llm.swarm.folder import petals_folder, swarm_name

_UPDATE = 10.0  # s between two looks at who serves what


class PetalsEngine:
    """One client process; the reference for its results is the single engine."""

    kind = "petals"
    rank = 0
    world_size = 1
    is_remote = True
    layout: Layout | None = "padded"

    def __init__(self, spec: PetalsSpec | None) -> None:
        if spec is None:
            message = "engine: got no section of kind petals; allowed: engine.kind=petals with"
            raise RecipeError([f"{message} engine.peers"])
        self.spec = spec
        self.device = torch.device(
            "cuda" if torch.cuda.is_available() and not wants_cpu() else "cpu"
        )
        self._dht: Any = None
        self._manager: Any = None
        self.chain: Chain | None = None

    def load_backbone(self, spec: ModelSpec, info: ModelInfo, *, layout: Layout) -> Backbone:
        """Looks at the swarm, then loads what is kept here; RecipeError where the swarm has not
        all blocks of this model, in its dtype and weight format."""
        import_petals()
        _quiet()
        _let_sessions_end()
        folder, name = petals_folder(info), self.spec.prefix or swarm_name(info)
        self._dht = open_directory(self.spec.peers, timeout=self.spec.connect_timeout)
        self._await_joining(name, info.layers)
        check_servers(self._dht, name, info=info, spec=spec)
        dtype = DTYPES[spec.dtype]
        body = self._client(folder, name, dtype=dtype)
        self._manager = body.h.sequence_manager
        self.chain = Chain(self._manager, self.spec, wire=DTYPES[self.spec.wire or spec.dtype])
        ends = _ends(body, info, dtype=dtype).to(self.device).requires_grad_(False).eval()
        if needs_fp32(self.device, dtype):
            with_fp32_products(ends)
        return RemoteBackbone(
            ends,
            self.chain,
            session=lambda longest: _Session(body.h.inference_session(max_length=longest)),
            dtype=dtype,
            limit=self.spec.micro_batch_tokens,
            parts=self.spec.in_flight,
        )

    def _await_joining(self, name: str, blocks: int) -> None:
        """Servers that are loading their blocks are waited for; blocks of nobody are not."""
        until, notified = time.monotonic() + self.spec.wait, False
        while time.monotonic() < until:
            servers = find_servers(self._dht, name, blocks=blocks)
            gone = find_missing(servers, blocks)
            loading = {i for s in servers if s.joining for i in range(s.start, s.end)}
            if not gone or not set(gone) <= loading:
                return
            if not notified:
                print(f"swarm: blocks {ranges(gone)} are being loaded; waiting", file=sys.stderr)
                notified = True
            time.sleep(1.0)

    def _client(self, folder: Any, name: str, *, dtype: torch.dtype) -> Any:
        """Petals' model without its LM head: embeddings, norms, and a stand-in for the blocks."""
        import petals

        spec = self.spec
        config = petals.AutoDistributedConfig.from_pretrained(
            str(folder),
            initial_peers=list(spec.peers),
            dht_prefix=name,
            connect_timeout=spec.connect_timeout,
            request_timeout=spec.request_timeout,
            update_period=_UPDATE,
            max_retries=spec.retries,
            max_backoff=5.0,
            show_route=False,
        )
        model = getattr(petals, f"Distributed{config.model_type.title()}Model")
        body, report = model.from_pretrained(
            str(folder), config=config, dht=self._dht, torch_dtype=dtype, output_loading_info=True
        )
        if report["missing_keys"]:
            names = ", ".join(report["missing_keys"][:3])
            raise RecipeError([f"model: {folder} lacks weights that are kept here ({names})"])
        return body

    def sum_over_ranks(self, x: Tensor) -> Tensor:
        return x

    def gather(self, items: list) -> list:
        return items

    def close(self) -> None:
        if self._manager is not None:
            from hivemind.moe.client.remote_expert_worker import RemoteExpertWorker

            self._manager._thread.shutdown(timeout=2.0)  # it may have to finish a look at the swarm
            # Here, in its own loop: what Python collects at the end finds no loop, and says so.
            end = self._manager.state.p2p.shutdown()
            with contextlib.suppress(TimeoutError):
                RemoteExpertWorker.run_coroutine(end, return_future=True).result(timeout=5.0)
        if self._dht is not None:
            self._dht.shutdown()


class _Session(AbstractContextManager):
    """One of Petals' sessions, in which servers remember keys and values."""

    def __init__(self, session: Any):
        self._session = session

    def __enter__(self) -> "_Session":
        self._open = self._session.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._session.__exit__(*error)

    def step(self, x: Tensor) -> Tensor:
        """(b, t, d) -> (b, t, d)"""
        try:
            return self._open.step(x.cpu()).to(x)
        except Exception as error:  # whatever Petals gives up with after its retries
            raise BackboneError(f"the swarm, while a text is written: {error}") from error


def _ends(body: Any, info: ModelInfo, *, dtype: torch.dtype) -> Ends:
    head = nn.Linear(1, 1, bias=False)
    stored = None if body.config.tie_word_embeddings else _stored_head(info)
    weight = body.word_embeddings.weight if stored is None else stored.to(dtype)
    head.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return Ends(body.word_embeddings, body.word_embeddings_layernorm, norm=body.ln_f, head=head)


def _stored_head(info: ModelInfo) -> Tensor | None:
    """The LM head (vocabulary, d), or None where the embeddings are it as well."""
    from safetensors import safe_open

    for file in info.files:
        with safe_open(file, framework="pt") as tensors:
            names: list[str] = list(tensors.keys())
            if "lm_head.weight" in names:
                return tensors.get_tensor("lm_head.weight")
    return None


def _let_sessions_end() -> None:
    """A session whose closing has failed closes itself again when Python ends, and waits for ever
    for an event loop that is gone. All are closed before (_Session)."""
    from petals.client.inference_session import _ServerInferenceSession

    if hasattr(_ServerInferenceSession, "__del__"):
        del _ServerInferenceSession.__del__


def _quiet() -> None:
    """What Petals says of each retry is said in our own words (swarm/chain.py)."""
    for name in ("petals", "hivemind"):
        logging.getLogger(name).setLevel(logging.ERROR)
