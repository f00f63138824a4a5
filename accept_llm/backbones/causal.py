"""Frozen causal language models (Llama and its kin): a batch is laid out, the prompt is put
before and added to it, and the states of the last real tokens come back.

Two layouts give the same states (tests hold them to 1e-5 in fp32):
padded  one row an example, padded on the right: no real token can see the padding, so no
        attention mask is needed;
packed  one row in all, [P][x_1]..[x_B]: each example sees P and, causally, itself. P is
        computed once and nothing is padded. packed_flex is the same with another kernel.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from accept_llm.backbones.base import (
    NOTHING,
    Generation,
    Layout,
    Root,
    embed,
    generation_arguments,
    log_likelihoods,
    truncate_at,
)
from accept_llm.backbones.flex import FlexPacking, pack_for_flex
from accept_llm.backbones.packed import Memory, Packing, pack, use_packed_attention
from accept_llm.data.batches import IGNORED, Batch
from accept_llm.methods.base import Composed


class CausalRoot(Root):
    """A causal model; see Root."""

    def forward(
        self,
        tokens: Tensor,
        *,
        reads: str = "embeddings",
        prompt: Mapping[str, Tensor] = NOTHING,
        layout: Mapping[str, Any] = NOTHING,
        at: Tensor | None = None,
        generation: Mapping[str, Any] = NOTHING,
    ) -> Tensor:
        """tokens (b, t), of the prompt a prefix (m, d) and offsets (t, d) or (b, t, d), of the
        layout position_ids, mask and packing -> what `reads` names: embeddings (b, t, d); states
        (n, d) or logits (n, V) at `at` (n,) of the flattened (b * (m + t)) positions; own: the
        model's own logits (b * t, V) of the tokens; or tokens (b, n), where `at` (b, m) is the
        prefix's place."""
        if reads == "own":
            return self.lm(input_ids=tokens, use_cache=False).logits.flatten(0, 1)
        prefix, mask = prompt.get("prefix"), layout.get("mask")
        x = self.embed_tokens(tokens, prompt.get("offsets"))
        if reads == "embeddings":
            return x
        if reads == "tokens":
            if prefix is not None and at is not None:
                x = x.scatter(
                    1, at[..., None].expand(-1, -1, x.shape[2]), prefix.expand(len(x), -1, -1)
                )
            return self.lm.generate(inputs_embeds=x, attention_mask=mask, **generation)
        if prefix is not None:
            x = torch.cat([prefix.expand(len(x), -1, -1), x], dim=1)  # (b, m + t, d)
        packing = layout.get("packing")
        packed = {"packing": packing, "attention_mask": mask} if packing else {}
        inputs = {"inputs_embeds": x, "position_ids": layout.get("position_ids"), **packed}
        if reads == "logits":
            assert at is not None
            return self.logits(at, **inputs)
        out = self.lm.base_model(use_cache=False, **inputs)
        return out.last_hidden_state.flatten(0, 1)[at]


class CausalBackbone:
    """Calls a CausalRoot, sharded or not, on batches."""

    def __init__(self, root: nn.Module, *, config: Any, dtype: torch.dtype, layout: Layout):
        text = config.get_text_config()
        self.module, self.dtype, self.layout = root, dtype, layout
        self._memory: tuple[Composed, Memory] | None = None
        self._pack: Pack = pack_for_flex if layout == "packed_flex" else pack
        if layout != "padded":
            use_packed_attention(root.lm)
        self.hidden_size: int = text.hidden_size
        self.vocab_size: int = text.vocab_size

    def __call__(self, batch: Batch, prompt: Composed, *, reads: str) -> Tensor:
        inputs, first = self._inputs(batch, prompt)
        return self.module(**inputs, reads=reads, at=first + batch.lengths - 1)

    def log_likelihood(
        self, batch: Batch, prompt: Composed, *, answers: Tensor, owner: Tensor
    ) -> Tensor:
        """Each answer is read behind its own copy of the input, as tokens without offsets."""
        real = answers != IGNORED
        extended = with_answers(batch, answers, owner=owner)
        own = batch.lengths[owner]
        inputs, first = self._inputs(extended, prompt, own=own)
        places = (first + own - 1)[:, None] + torch.arange(answers.shape[1], device=own.device)
        logits = self.module(**inputs, reads="logits", at=places[real])
        return log_likelihoods(logits, answers)

    def _inputs(
        self, batch: Batch, prompt: Composed, *, own: Tensor | None = None
    ) -> tuple[dict[str, Any], Tensor]:
        """The root's inputs, and where each example's first token is (B,). Offsets go to the
        first `own` (B,) tokens of each example."""
        prefix, table = prompt.prefix, prompt.offsets
        m, memory = 0 if prefix is None else len(prefix), self._cached_prompt(prompt)
        if self.layout == "padded":
            inputs, positions, first = lay_padded(batch, m, own=own)
        else:
            before = m if memory is None else 0
            packing = self._pack(batch.lengths, before, memory=memory)
            inputs, positions, first = lay_packed(batch, m, own=own, packing=packing)
        parts = {} if table is None else {"offsets": self._offsets(table, positions)}
        if prefix is not None and memory is None:
            parts["prefix"] = prefix.to(self.dtype)
        return {**inputs, "prompt": parts}, first

    def _cached_prompt(self, prompt: Composed) -> Memory | None:
        """The prompt's keys and values where no gradient is needed, computed once for all batches
        that come with this very prompt; None where it must be computed with the batch."""
        prefix = prompt.prefix
        if torch.is_grad_enabled() or self.layout == "padded" or prefix is None:
            return None
        if self._memory is None or self._memory[0] is not prompt:
            memory, none = Memory({}), torch.zeros(0, dtype=torch.int64, device=prefix.device)
            self._memory = (prompt, memory)
            self.module(
                none[None],
                prompt={"prefix": prefix.to(self.dtype)},
                layout={
                    "position_ids": torch.arange(len(prefix), device=prefix.device)[None],
                    "packing": self._pack(none, len(prefix), memory=memory),
                    "mask": _no_mask(prefix.device),
                },
                reads="states",
                at=none,
            )
        return self._memory[1]

    def _offsets(self, table: Tensor, positions: Tensor) -> Tensor:
        """The offset of each token, by its position in its example, never by its place in the
        padded or packed row; a token of position -1 has none."""
        table = table.to(self.dtype)
        return torch.cat([table, torch.zeros_like(table[:1])])[positions]

    @torch.no_grad()
    def generate(self, batch: Batch, prompt: Composed, *, how: Generation) -> list[list[int]]:
        """Padded on the left, before the prompt, because new tokens are put on the right."""
        prefix, table = prompt.prefix, prompt.offsets
        m, device = 0 if prefix is None else len(prefix), batch.tokens.device
        length = m + int(batch.lengths.max())
        start = (length - m - batch.lengths)[:, None]  # (B, 1): where the prompt begins
        places = torch.arange(length, device=device)
        real = places >= start + m
        tokens = torch.zeros(len(batch), length, dtype=torch.int64, device=device)
        tokens[real] = batch.tokens
        parts, at = {}, None
        if prefix is not None:
            parts["prefix"] = prefix.to(self.dtype)
            at = start + torch.arange(m, device=device)
        if table is not None:
            parts["offsets"] = self._offsets(table, torch.where(real, places - start - m, -1))
        layout = {"mask": (places >= start).long()}
        generation = generation_arguments(how)
        out = self.module(
            tokens, reads="tokens", prompt=parts, layout=layout, at=at, generation=generation
        )
        return [truncate_at(how.end, row) for row in out.tolist()]

    def positions(self, batch: Batch) -> int:
        if self.layout == "padded":
            return len(batch) * int(batch.lengths.max())
        return len(batch.tokens)

    def embed(self, ids: Tensor) -> Tensor:
        return embed(self.module, ids)


Pack = Callable[..., Packing | FlexPacking]
LaidOut = tuple[dict[str, Any], Tensor, Tensor]
"""The root's inputs, the position of each token in its example (-1: it has no offset), and the
place (B,) of each example's first token among the flattened positions."""


def lay_padded(batch: Batch, m: int, *, own: Tensor | None = None) -> LaidOut:
    """(B, longest) rows; the padding token is 0, no real token sees it."""
    rows = pad_sequence(batch.tokens.split(batch.lengths.tolist()), batch_first=True)
    longest, device = rows.shape[1], rows.device
    positions = torch.arange(longest, device=device)
    if own is not None:
        positions = torch.where(positions < own[:, None], positions, -1)  # (B, longest)
    first = torch.arange(len(batch), device=device) * (m + longest) + m
    return {"tokens": rows}, positions, first


def lay_packed(
    batch: Batch, m: int, *, own: Tensor | None, packing: Packing | FlexPacking
) -> LaidOut:
    """One row of all tokens, behind the prompt's m or with a memory of them."""
    device, n = batch.tokens.device, len(batch.tokens)
    starts = batch.lengths.cumsum(0) - batch.lengths
    example = torch.arange(len(batch), device=device).repeat_interleave(batch.lengths)  # (n,)
    positions = torch.arange(n, device=device) - starts[example]
    before = packing.prefix
    layout = {
        "position_ids": torch.cat([torch.arange(before, device=device), m + positions])[None],
        "packing": packing,
        "mask": _no_mask(device),
    }
    inputs = {"tokens": batch.tokens[None], "layout": layout}
    if own is not None:
        positions = torch.where(positions < own[example], positions, -1)
    return inputs, positions, starts + before


def _no_mask(device: torch.device) -> Tensor:
    """A mask (1, 1, 1, 1): given one of four dimensions, transformers makes none of T x T."""
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)


def with_answers(batch: Batch, answers: Tensor, *, owner: Tensor) -> Batch:
    """R examples: the input of the example `owner` names, then all of an answer but its last
    token, which nothing has to be read after."""
    texts = batch.tokens.split(batch.lengths.tolist())
    answer_lengths = (answers != IGNORED).sum(1) - 1
    rows = [
        torch.cat([texts[i], answer[:n]])
        for i, answer, n in zip(owner.tolist(), answers, answer_lengths.tolist(), strict=True)
    ]
    ids = tuple(batch.ids[i] for i in owner.tolist())
    lengths = batch.lengths[owner] + answer_lengths
    return Batch(ids, torch.cat(rows), lengths, batch.labels[owner], answers)
