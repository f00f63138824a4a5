"""Frozen causal language models (Llama and its kin): a batch is laid out, the prompt is put
before and added to it, and the states of the last real tokens come back.

Two layouts give the same states (tests hold them to 1e-5 in fp32):
padded  one row an example, padded on the right: no real token can see the padding, so no
        attention mask is needed;
packed  one row in all, [P][x_1]..[x_B]: each example sees P and, causally, itself. P is
        computed once and nothing is padded.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from accept_llm.batches import Batch
from accept_llm.prompts import Composed

Layout = Literal["padded", "packed"]


class CausalRoot(nn.Module):
    """Holds the model; every use of a weight that may be sharded is inside `forward`.

    Sharding wraps this module from outside (engines/fsdp2.py). A weight touched elsewhere
    would mix torch.Tensor and DTensor.
    """

    def __init__(self, lm: Any):
        super().__init__()
        self.lm = lm

    def forward(
        self,
        tokens: Tensor,
        *,
        prefix: Tensor | None = None,
        offsets: Tensor | None = None,
        position_ids: Tensor | None = None,
        mask: Tensor | None = None,
        reads: str = "embeddings",
        at: Tensor | None = None,
    ) -> Tensor:
        """tokens (b, t), prefix (m, d), offsets (t, d) -> what `reads` names, at `at` (n,)
        of the flattened (b * (m + t)) positions."""
        x = self.lm.get_input_embeddings()(tokens)  # (b, t, d)
        if reads == "embeddings":
            return x
        if offsets is not None:
            x = x + offsets
        if prefix is not None:
            x = torch.cat([prefix.expand(len(x), -1, -1), x], dim=1)  # (b, m + t, d)
        out = self.lm.base_model(
            inputs_embeds=x, position_ids=position_ids, attention_mask=mask, use_cache=False
        )
        states = out.last_hidden_state.flatten(0, 1)[at]  # (n, d)
        return states if reads == "states" else self.lm.get_output_embeddings()(states)


class CausalBackbone:
    """Calls a CausalRoot, sharded or not, on batches."""

    def __init__(self, root: nn.Module, *, config: Any, dtype: torch.dtype, layout: Layout):
        text = config.get_text_config()
        self.module, self.dtype, self.layout = root, dtype, layout
        self.hidden_size: int = text.hidden_size
        self.vocab_size: int = text.vocab_size

    def __call__(self, batch: Batch, prompt: Composed, *, reads: str) -> Tensor:
        prefix, table = prompt.prefix, prompt.offsets
        m = 0 if prefix is None else len(prefix)
        lay = packed if self.layout == "packed" else padded
        inputs = lay(batch, m)
        if table is not None:
            # By the token's own position, never its place in the padded or packed row.
            inputs["offsets"] = table[inputs.pop("positions")].to(self.dtype)
        else:
            del inputs["positions"]
        if prefix is not None:
            inputs["prefix"] = prefix.to(self.dtype)
        return self.module(**inputs, reads=reads)

    @torch.no_grad()
    def embed(self, ids: Tensor) -> Tensor:
        device = next(self.module.parameters()).device
        return self.module(ids[None].to(device))[0]


def padded(batch: Batch, m: int) -> dict[str, Tensor]:
    """(B, longest) rows; the padding token is 0, no real token sees it."""
    longest = int(batch.lengths.max())
    rows = nn.utils.rnn.pad_sequence(batch.tokens.split(batch.lengths.tolist()), batch_first=True)
    first = torch.arange(len(batch), device=rows.device) * (m + longest)
    return {
        "tokens": rows,
        "positions": torch.arange(longest, device=rows.device),
        "at": first + m + batch.lengths - 1,
    }


def packed(batch: Batch, m: int) -> dict[str, Tensor]:
    """One row of all tokens, with a (1, 1, T, T) mask: T^2 bytes, fine for short texts."""
    device, n = batch.tokens.device, len(batch.tokens)
    ends = batch.lengths.cumsum(0)
    starts = ends - batch.lengths
    example = torch.arange(len(batch), device=device).repeat_interleave(batch.lengths)  # (n,)
    positions = torch.arange(n, device=device) - starts[example]
    owner = torch.cat([example.new_full((m,), -1), example])  # (m + n,): -1 is the prompt
    mask = (owner[:, None] == owner) | (owner == -1)
    mask &= torch.ones(m + n, m + n, dtype=torch.bool, device=device).tril()
    return {
        "tokens": batch.tokens[None],
        "positions": positions,
        "position_ids": torch.cat([torch.arange(m, device=device), m + positions])[None],
        "mask": mask[None, None],
        "at": m + ends - 1,
    }
