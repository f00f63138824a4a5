"""Frozen encoder-decoders (T5, T5 v1.1, Flan-T5): the prompt goes before and is added to the
encoder's input only; the decoder says or writes the answer.

A batch is padded on the right and masked. T5's encoder looks both ways, so that its prompt
cannot be shared by the examples of a batch as a causal model's can.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from accept_llm.backbones.base import (
    NOTHING,
    Generation,
    Root,
    embed,
    generation_arguments,
    log_likelihoods,
    truncate_at,
)
from accept_llm.data.batches import IGNORED, Batch
from accept_llm.methods.base import Composed


class Seq2SeqRoot(Root):
    """An encoder-decoder; see Root."""

    def forward(
        self,
        tokens: Tensor,
        *,
        mask: Tensor | None = None,
        prompt: Mapping[str, Tensor] = NOTHING,
        reads: str = "embeddings",
        targets: tuple[Tensor, Tensor] | None = None,
        generation: Mapping[str, Any] = NOTHING,
    ) -> Tensor:
        """tokens (b, t), mask (b, m + t), of the prompt a prefix (m, d) and offsets (t, d) -> what
        `reads` names: embeddings (b, t, d); states (b, d) or logits (b, V) of the decoder's first
        position; log-likelihoods (R,) of `targets`, answers (R, a) and the examples (R,) that they
        belong to; or tokens (b, n)."""
        prefix = prompt.get("prefix")
        x = self.embed_tokens(tokens, prompt.get("offsets"))
        if reads == "embeddings":
            return x
        if prefix is not None:
            x = torch.cat([prefix.expand(len(x), -1, -1), x], dim=1)  # (b, m + t, d)
        if reads == "tokens":
            return self.lm.generate(inputs_embeds=x, attention_mask=mask, **generation)
        encoded = self.lm.encoder(inputs_embeds=x, attention_mask=mask).last_hidden_state
        if reads == "answers":
            assert targets is not None
            assert mask is not None
            answers, owner = targets
            at = (answers != IGNORED).flatten().nonzero()[:, 0]
            inputs = self._decoding(encoded[owner], mask[owner], said=answers)
            return log_likelihoods(self.logits(at, **inputs), answers)
        first = tokens[:, :1]
        if reads == "logits":
            at = torch.arange(len(tokens), device=tokens.device)
            return self.logits(at, **self._decoding(encoded, mask, said=first))
        out = self.lm.decoder(
            input_ids=self._shift(first),
            encoder_hidden_states=encoded,
            encoder_attention_mask=mask,
            use_cache=False,
        )
        return out.last_hidden_state[:, 0]

    def _decoding(self, encoded: Tensor, mask: Any, *, said: Tensor) -> dict[str, Any]:
        """What the model reads to say tokens (R, a) after inputs that the encoder has read. Padding
        on the right is seen by none before it."""
        from transformers.modeling_outputs import BaseModelOutput

        return {
            "encoder_outputs": BaseModelOutput(last_hidden_state=encoded),
            "attention_mask": mask,
            "decoder_input_ids": self._shift(said),
        }

    def _shift(self, answers: Tensor) -> Tensor:
        """What the decoder reads to say `answers`: its start token, then all but the last."""
        start = answers.new_full((len(answers), 1), self.lm.config.decoder_start_token_id)
        return torch.cat([start, answers[:, :-1].clamp(min=0)], dim=1)


class Seq2SeqBackbone:
    """Calls a Seq2SeqRoot, sharded or not, on batches."""

    def __init__(self, root: nn.Module, *, config: Any, dtype: torch.dtype):
        self.module, self.config, self.dtype = root, config, dtype
        self.hidden_size: int = config.d_model
        self.vocab_size: int = config.vocab_size

    def __call__(self, batch: Batch, prompt: Composed, *, reads: str) -> Tensor:
        return self.module(**self._inputs(batch, prompt), reads=reads)

    def log_likelihood(
        self, batch: Batch, prompt: Composed, *, answers: Tensor, owner: Tensor
    ) -> Tensor:
        inputs = self._inputs(batch, prompt)
        return self.module(**inputs, reads="answers", targets=(answers, owner))

    @torch.no_grad()
    def generate(self, batch: Batch, prompt: Composed, *, how: Generation) -> list[list[int]]:
        start = self.config.decoder_start_token_id
        generation = {**generation_arguments(how), "decoder_start_token_id": start}
        out = self.module(**self._inputs(batch, prompt), reads="tokens", generation=generation)
        return [truncate_at(how.end, row) for row in out[:, 1:].tolist()]  # without the start token

    def positions(self, batch: Batch) -> int:
        return len(batch) * int(batch.lengths.max())

    def _inputs(self, batch: Batch, prompt: Composed) -> dict[str, Any]:
        prefix, table = prompt.prefix, prompt.offsets
        rows = pad_sequence(batch.tokens.split(batch.lengths.tolist()), batch_first=True)
        length, m = rows.shape[1], 0 if prefix is None else len(prefix)
        places = torch.arange(m + length, device=rows.device)
        parts = {} if prefix is None else {"prefix": prefix.to(self.dtype)}
        if table is not None:
            parts["offsets"] = table[:length].to(self.dtype)
        mask = (places < m + batch.lengths[:, None]).long()
        return {"tokens": rows, "mask": mask, "prompt": parts}

    def embed(self, ids: Tensor) -> Tensor:
        return embed(self.module, ids)
