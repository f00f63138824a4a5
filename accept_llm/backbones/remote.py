"""A frozen causal model whose blocks are elsewhere: embeddings, last norm and LM head are here.

Rows of about one length go through the blocks together, padded on the right: no real token can see
the padding, so that no mask is needed. What is between the ends (`Chain`) is a swarm's business.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from accept_llm.backbones.base import Generation, log_likelihoods, truncate_at
from accept_llm.backbones.causal import lay_padded, with_answers
from accept_llm.data.batches import IGNORED, Batch
from accept_llm.methods.base import Composed

Through = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]
"""Parts (b, t, d), each with its own b and t -> the same, after all blocks."""
Session = Callable[[int], AbstractContextManager[Any]]
"""The longest text -> something whose step((b, t, d)) -> (b, t, d) knows what came before."""


class Ends(nn.Module):
    """What is before and behind the blocks."""

    def __init__(
        self, embedding: nn.Embedding, first: nn.Module, *, norm: nn.Module, head: nn.Module
    ):
        super().__init__()
        self.embedding, self.first, self.norm, self.head = embedding, first, norm, head
        self.width = embedding.embedding_dim


class RemoteBackbone:
    """Calls the blocks on batches, in requests of at most `limit` positions; where a batch has
    enough rows, at least `parts` of them."""

    def __init__(
        self,
        ends: Ends,
        through: Through,
        *,
        session: Session,
        dtype: torch.dtype,
        limit: int,
        parts: int,
    ):
        self.module: nn.Module = ends
        self.ends, self.through, self.session = ends, through, session
        self.dtype, self.limit, self.parts = dtype, limit, parts
        self.vocab_size, self.hidden_size = ends.embedding.num_embeddings, ends.width

    def __call__(self, batch: Batch, prompt: Composed, *, reads: str) -> Tensor:
        last = [n - 1 for n in batch.lengths[:, None]]
        states = self._states(batch, prompt, places=last)
        return states if reads == "states" else self.ends.head(states)

    def log_likelihood(
        self, batch: Batch, prompt: Composed, *, answers: Tensor, owner: Tensor
    ) -> Tensor:
        """Each answer is read behind its own copy of the input, as tokens without offsets."""
        extended, own = with_answers(batch, answers, owner=owner), batch.lengths[owner]
        answer_lengths = (answers != IGNORED).sum(1)
        places = [
            n - 1 + torch.arange(int(k), device=own.device)
            for n, k in zip(own, answer_lengths, strict=True)
        ]
        logits = self.ends.head(self._states(extended, prompt, places=places, own=own))
        return log_likelihoods(logits, answers)

    def _states(
        self, batch: Batch, prompt: Composed, *, places: Sequence[Tensor], own: Tensor | None = None
    ) -> Tensor:
        """(n, d): the final states at the `places` of each example, counted from its first token,
        in the order of the examples."""
        m = 0 if prompt.prefix is None else len(prompt.prefix)
        groups = self._groups(batch.lengths.tolist(), m)
        parts = [self._inputs(batch, prompt, rows=rows, own=own) for rows in groups]
        found: dict[int, Tensor] = {}
        for rows, out in zip(groups, self.through(parts), strict=True):
            found |= {row: out[i, m + places[row]] for i, row in enumerate(rows)}
        return self.ends.norm(torch.cat([found[i] for i in range(len(batch))]))

    def _groups(self, lengths: Sequence[int], m: int) -> list[list[int]]:
        """Rows in the order of their lengths, in requests that cost about the same: `parts` of them
        or as many as `limit` makes."""
        order = sorted(range(len(lengths)), key=lambda i: lengths[i])
        costs = [m + lengths[i] for i in order]
        count = max(min(self.parts, len(order)), len(split_by_cost(costs, self.limit)))
        low, high = min(costs[-1], self.limit), self.limit
        while low < high:  # the smallest limit that makes no more requests
            middle = (low + high) // 2
            few = len(split_by_cost(costs, middle)) <= count
            low, high = (low, middle) if few else (middle + 1, high)
        return [order[start:end] for start, end in split_by_cost(costs, low)]

    def _inputs(
        self, batch: Batch, prompt: Composed, *, rows: Sequence[int], own: Tensor | None
    ) -> Tensor:
        """(b, m + t, d): prompt, and embeddings with their offsets."""
        prefix, table = prompt.prefix, prompt.offsets
        part = rows_of(batch, rows)
        inputs, positions, _ = lay_padded(part, 0, own=None if own is None else own[list(rows)])
        x = self.ends.embedding(inputs["tokens"])
        if table is not None:
            table = table.to(self.dtype)
            x = x + torch.cat([table, torch.zeros_like(table[:1])])[positions]
        if prefix is not None:
            x = torch.cat([prefix.to(self.dtype).expand(len(x), -1, -1), x], dim=1)
        return self.ends.first(x)

    @torch.no_grad()
    def generate(self, batch: Batch, prompt: Composed, *, how: Generation) -> list[list[int]]:
        """Greedy; examples of one length together, since nothing can be masked."""
        assert how.beams == 1, how  # others: engines/check.py
        lengths, generated = batch.lengths.tolist(), dict[int, list[int]]()
        m = 0 if prompt.prefix is None else len(prompt.prefix)
        for length in sorted(set(lengths)):
            rows = [i for i, n in enumerate(lengths) if n == length]
            x, tokens = self._inputs(batch, prompt, rows=rows, own=None), list[Tensor]()
            with self.session(m + length + how.limit) as session:
                while len(tokens) < how.limit:
                    last = self.ends.norm(session.step(x)[:, -1])
                    tokens.append(self.ends.head(last).argmax(-1))
                    if bool((torch.stack(tokens) == how.end).any(0).all()):
                        break
                    x = self.ends.first(self.ends.embedding(tokens[-1])[:, None])
            texts = torch.stack(tokens, 1).tolist()
            generated |= {
                i: truncate_at(how.end, text) for i, text in zip(rows, texts, strict=True)
            }
        return [generated[i] for i in range(len(batch))]

    def positions(self, batch: Batch) -> int:
        lengths = batch.lengths.tolist()
        return sum(len(rows) * lengths[rows[-1]] for rows in self._groups(lengths, 0))

    @torch.no_grad()
    def embed(self, ids: Tensor) -> Tensor:
        return self.ends.embedding(ids.to(self.ends.embedding.weight.device))


def split_by_cost(costs: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Rising `costs` -> parts [start, end) whose padded cost, rows times the last, is at most
    `limit`; a row that is more by itself has a part of its own."""
    parts, start = [], 0
    for end, cost in enumerate(costs):
        if end > start and (end + 1 - start) * cost > limit:
            parts.append((start, end))
            start = end
    return [*parts, (start, len(costs))]


def rows_of(batch: Batch, rows: Sequence[int]) -> Batch:
    """The batch of some `rows` of a batch."""
    texts, index = batch.tokens.split(batch.lengths.tolist()), list(rows)
    return Batch(
        tuple(batch.ids[i] for i in rows),
        torch.cat([texts[i] for i in rows]),
        *(t[index] for t in (batch.lengths, batch.labels, batch.answers)),
    )
