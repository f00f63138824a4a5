"""Batches on their way through the servers of a swarm, forward and back, several at a time.

Routing, retries and the calls themselves are Petals' own (its `sequential_forward` and
`sequential_backward`). Added: how many requests are under way, the type that is sent, answers that
are no numbers, a log of servers that are lost or slow, and an end to waiting.
"""

import asyncio
import concurrent.futures
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import torch
from torch import Tensor

from accept_llm.backbones.base import BackboneError
from accept_llm.recipe.engine import PetalsEngine
from accept_llm.swarm.directory import ranges, short

SLOW = 3.0  # times the median of the other servers, before it is said
_ENOUGH = 4  # requests of a server, before it is compared
_GRACE = 10.0  # s over `engine.wait` that a request may need to end


class BadAnswer(RuntimeError):
    """A server's answer is no numbers, or of another shape."""


class Chain:
    """All blocks of a model, in order: (b, t, d) -> (b, t, d), differentiable."""

    def __init__(self, manager: Any, spec: PetalsEngine, *, wire: torch.dtype):
        self.manager, self.spec, self.wire = manager, spec, wire
        manager.blocked_servers = set()
        manager.config.guard = self
        self.lost: dict[str, tuple[list[int], str]] = {}  # peer -> its blocks, what happened
        self.seconds: dict[str, list[float]] = defaultdict(list)  # peer -> s a position and block
        self._failed: Counter[Any] = Counter()
        self._outage: float | None = None
        self._slow: set[str] = set()
        self._slots = asyncio.Semaphore(spec.in_flight)
        self._doors: dict[Any, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(spec.per_server)
        )
        _guard_petals()

    def __call__(self, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Each part through all blocks."""
        return _Through.apply(self, *parts)

    # --- under way ----------------------------------------------------------------------

    def run(self, jobs: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
        """Runs them on the event loop of Petals' client; BackboneError where the swarm fails."""
        from hivemind.moe.client.remote_expert_worker import RemoteExpertWorker

        try:
            _ = self.manager.rpc_info  # asked for once, outside of the loop that it would block
        except Exception as error:
            for job in jobs:
                job.close()
            message = f"the swarm: no server says what it takes: {_what(error)}"
            raise BackboneError(message) from error
        future = RemoteExpertWorker.run_coroutine(_all(jobs), return_future=True)
        while True:
            try:
                return future.result(timeout=1.0)
            except (TimeoutError, concurrent.futures.TimeoutError):
                if future.done():
                    raise
                if self._left() < -_GRACE:  # something in the event loop does not return
                    future.cancel()
                    raise self._given_up() from None

    async def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Any]]:
        """The output, and what the way back needs: each server's input, and its blocks."""
        from petals.client.sequential_autograd import sequential_forward
        from petals.utils.misc import DUMMY

        return await self._patiently(lambda: sequential_forward(x, DUMMY, self.manager))

    async def backward(self, grad: Tensor, *, inputs: list[Tensor], spans: list[Any]) -> Tensor:
        """The gradient of the chain's input."""
        from petals.client.sequential_autograd import sequential_backward
        from petals.utils.misc import DUMMY

        (found,), _ = await self._patiently(  # it takes the lists apart, also where it fails
            lambda: sequential_backward((grad,), list(inputs), DUMMY, list(spans), self.manager)
        )
        return found

    async def _patiently(self, attempt: Callable[[], Awaitable[Any]]) -> Any:
        """Tries again for `engine.wait` seconds, counted from the first request that failed."""
        async with self._slots:
            while True:
                try:
                    result = await asyncio.wait_for(attempt(), self._patience())
                except Exception as error:
                    if self._outage is None:
                        self._outage = time.monotonic()
                        self.lost.setdefault("?", ([], _what(error)))
                    if self._left() <= 0:
                        raise self._given_up() from error
                    await asyncio.sleep(1.0)
                    self.manager.update(wait=False)
                else:
                    self._is_whole()
                    return result

    def _left(self) -> float:
        if self._outage is None:
            return float("inf")
        return self.spec.wait - (time.monotonic() - self._outage)

    def _patience(self) -> float | None:
        """None: as long as Petals' own timeouts let it take."""
        return None if self._outage is None else max(1.0, self._left())

    def _is_whole(self) -> None:
        if self._outage is not None:
            gone = time.monotonic() - self._outage
            if gone > 2:
                _log(f"all blocks are served again, after {gone:.0f} s")
        self._outage = None
        self.lost = {p: v for p, v in self.lost.items() if p in self._blocked()}

    def _blocked(self) -> set[str]:
        return {str(peer) for peer in self.manager.blocked_servers}

    def _given_up(self) -> BackboneError:
        known = self.manager.state.sequence_info.block_infos
        alive = [{str(p) for p in info.servers} - set(self.lost) for info in known]
        gone = [i for i, peers in enumerate(alive) if not peers]
        lost = "; ".join(
            f"{short(peer)}, blocks {ranges(blocks)}: {what}" if blocks else what
            for peer, (blocks, what) in self.lost.items()
        )
        which = f"nobody serves the blocks {ranges(gone)}" if gone else "a server does not answer"
        return BackboneError(
            f"the swarm: {which}, for {self.spec.wait:.0f} s (engine.wait); lost: {lost or 'none'}"
        )

    # --- one request --------------------------------------------------------------------

    async def ask(self, call: Callable[..., Any], *, args: tuple, kwargs: dict) -> Any:
        """One of Petals' calls of one server, watched."""
        uids, stub, info, *tensors = args
        peer, blocks = stub._peer, [int(uid.rsplit(".", 1)[1]) for uid in uids.split()]
        sent = [t.to(self.wire) if t.is_floating_point() else t for t in tensors]
        failed = self._failed[peer]
        try:
            async with self._doors[peer]:
                if self._failed[peer] > failed:  # not each of those that wait for its timeout
                    raise ConnectionError("it failed for another request meanwhile")
                began = time.perf_counter()
                answer = await call(uids, stub, info, *sent, **kwargs)
                self._note_time(
                    str(peer), time.perf_counter() - began, x=tensors[0], blocks=len(blocks)
                )
            self._check(answer, tensors)
        except Exception as error:
            if isinstance(error, BadAnswer):
                self.manager.blocked_servers.add(peer)
            self._failed[peer] += 1
            if self._outage is None:
                self._outage = time.monotonic()
            if str(peer) not in self.lost:
                self.lost[str(peer)] = (blocks, _what(error))
                _log(f"lost server {peer} (blocks {ranges(blocks)}): {_what(error)}")
            raise
        return answer

    def _check(self, answer: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
        """The first tensor that came is as long as the first that went, and finite if they were."""
        first = answer[0]
        if first.shape != tensors[0].shape:
            shapes = f"{tuple(first.shape)}, not {tuple(tensors[0].shape)}"
            raise BadAnswer(f"its answer has the shape {shapes}; it is not used any more")
        if not first.isfinite().all() and all(bool(t.isfinite().all()) for t in tensors):
            raise BadAnswer("its answer is not finite (NaN); it is not used any more")

    def _note_time(self, peer: str, seconds: float, *, x: Tensor, blocks: int) -> None:
        mine = self.seconds[peer]
        mine.append(seconds / (x.shape[0] * x.shape[1] * blocks))
        del mine[:-50]
        others = [s for p, times in self.seconds.items() if p != peer for s in times]
        if peer in self._slow or min(len(mine), len(others)) < _ENOUGH:
            return
        times = statistics.median(mine) / statistics.median(others)
        if times > SLOW:
            self._slow.add(peer)
            _log(f"slow server {peer}: {times:.1f} times as long as the others for a block")


class _Through(torch.autograd.Function):
    """All parts at a time, forward and back."""

    @staticmethod
    def forward(ctx: Any, chain: Chain, *parts: Tensor) -> tuple[Tensor, ...]:
        done = chain.run([chain.forward(part.detach()) for part in parts])
        ctx.chain, ctx.ways = chain, [(inputs, spans) for _, inputs, spans in done]
        return tuple(out for out, _, _ in done)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        chain = ctx.chain
        jobs = [
            chain.backward(grad, inputs=inputs, spans=spans)
            for grad, (inputs, spans) in zip(grads, ctx.ways, strict=True)
        ]
        return None, *chain.run(jobs)


async def _all(jobs: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Their results; the first failure ends the others."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _guard_petals() -> None:
    """Petals has no hook around its calls of one server: the names it calls them by are taken."""
    from petals.client import sequential_autograd as petals_calls

    for name in ("run_remote_forward", "run_remote_backward"):
        call = getattr(petals_calls, name)
        if not hasattr(call, "guarded"):
            setattr(petals_calls, name, _guarded(call))


def _guarded(call: Callable[..., Any]) -> Callable[..., Any]:
    async def ask(*args: Any, **kwargs: Any) -> Any:
        return await kwargs["config"].guard.ask(call, args=args, kwargs=kwargs)

    ask.guarded = call  # type: ignore[attr-defined]
    return ask


def _what(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    if isinstance(error, BadAnswer):
        return text[0]
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _log(text: str) -> None:
    print(f"swarm: {text}", file=sys.stderr, flush=True)
