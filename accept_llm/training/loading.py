"""A prepared recipe becomes what computes: the frozen model on an engine, with its method and head
attached, and an encoder of examples for it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from accept_llm.adapter.card import changed_configs, check_fits, tokenizer_hash
from accept_llm.adapter.folder import Adapter
from accept_llm.adapter.folder import load as load_adapter
from accept_llm.backbones.base import Backbone
from accept_llm.backbones.families import choose_layout
from accept_llm.checks import Prepared
from accept_llm.data.demonstrations import demonstrations
from accept_llm.data.encoding import Encoder
from accept_llm.engines.base import Engine
from accept_llm.errors import Notify, RecipeError, silent
from accept_llm.heads import Head, Setting, build_head
from accept_llm.methods.base import Method, Start
from accept_llm.methods.table import build_method
from accept_llm.models.find import fetch_model
from accept_llm.models.folder import ModelInfo
from accept_llm.models.tokenizer import check_tokens, load_tokenizer
from accept_llm.storage import cache_dir
from accept_llm.swarm import probe
from accept_llm.swarm.folder import FAMILIES
from accept_llm.training.evaluate import Model


@dataclass(frozen=True)
class Loaded:
    """A model with its method and head, and how to encode examples for it."""

    model: Model
    info: ModelInfo
    encode: Encoder
    probe: probe.Probe | None
    """What the model computes for the probe text, where a swarm could be asked for it too."""


def _with_local_model(prepared: Prepared, engine: Engine) -> Prepared:
    """Rank 0 downloads or converts a model that is not here yet, while the others wait; then the
    first rank of a machine that does not share its folders."""
    for is_due in (engine.rank == 0, os.environ.get("LOCAL_RANK", "0") == "0"):
        if is_due and prepared.model is None:
            prepared = prepared.with_model(fetch_model(prepared.recipe.model))
        engine.gather([engine.rank])
    if prepared.model is None:
        prepared = prepared.with_model(fetch_model(prepared.recipe.model))
    return prepared


def load(
    prepared: Prepared, engine: Engine, *, notify: Notify = silent, adapter: Path | None = None
) -> Loaded:
    """Loads the backbone, and a fresh method and head or those of an adapter folder.

    Tokenizer, head and adapter are checked before any weight is loaded; what others compute is
    checked as soon as there is a connection to them.
    """
    prepared = _with_local_model(prepared, engine)
    recipe, info, shape = prepared.recipe, prepared.model, prepared.shape
    assert info is not None
    assert shape is not None
    layout = engine.layout or choose_layout(
        info,
        asked=recipe.model.layout,
        longest=shape.length + recipe.task.max_length,
        device=engine.device.type,
    )
    trained = load_adapter(adapter) if adapter else None
    if trained:
        check_fits(trained.card, recipe.model, info=info)
        for name in changed_configs(trained.card, info.folder):
            changed = f"{info.folder / name} is not as it was when the adapter was trained"
            notify(f"note: model: {changed}; answers may differ")
    tokenizer = load_tokenizer(info.folder)
    check_tokens(tokenizer, info.folder, vocabulary=info.vocab_size)
    seed, seq2seq = recipe.train.seed, info.architecture == "seq2seq"
    setting = Setting(prepared.task, info.hidden_size, tokenizer, seed, seq2seq)
    head = trained.head if trained else build_head(recipe.head, setting)
    _check_longest(prepared, info, head=head)
    answer_of = head.answers(tokenizer, encoder_decoder=seq2seq)
    cache = (cache_dir() / "tokens", tokenizer_hash(info.folder))
    encode = Encoder(
        *(tokenizer, prepared.task),
        spec=recipe.task,
        answer_of=answer_of,
        cache=cache,
        dropped_end=None if seq2seq else tokenizer.eos_token_id,
    )
    if info.has_adapter:
        notify(f"note: model: {info.folder} has an adapter too; the base model alone is used")
    backbone = engine.load_backbone(recipe.model, info, layout=layout)
    found = None
    if info.model_type in FAMILIES:  # of the model as it is, before a method changes its layers
        kind = probe.kind_of(recipe.model)
        found = probe.take(backbone, tokenizer, info=info, kind=kind, device=engine.device)
        if engine.is_remote:
            notify(probe.check_recorded(found, info, recorded=_record_of(trained, adapter)))
    method = trained.method if trained else _fresh_method(prepared, encode, backbone=backbone)
    method = method.to(engine.device)
    method.attach(backbone.module)
    model = Model(engine, backbone, method, head.to(engine.device), tokenizer)
    return Loaded(model, info, encode, found)


def _check_longest(prepared: Prepared, info: ModelInfo, *, head: Head) -> None:
    """RecipeError where the model has no positions for the text of a label behind the longest
    input."""
    recipe, most = prepared.recipe, info.max_positions
    needed = recipe.method.tokens + recipe.task.max_length + head.longest
    if head.longest and most is not None and needed > most:
        got = f"head.words: the longest text of a label has {head.longest} tokens"
        rest = f"{recipe.method.tokens} of the prompt and task.max_length {recipe.task.max_length}"
        raise RecipeError([f"{got}; allowed: at most {most} positions in all, with {rest}"])


def _fresh_method(prepared: Prepared, encode: Encoder, *, backbone: Backbone) -> Method:
    """A method with its first values, the same on every rank and engine."""
    assert prepared.shape is not None
    generator = torch.Generator().manual_seed(prepared.recipe.train.seed)

    def examples(count: int) -> Tensor:
        rows = prepared.rows.train
        return demonstrations(encode, rows, count=count, generator=generator)

    start = Start(backbone.embed, backbone.vocab_size, generator, examples)
    return build_method(prepared.recipe.method, prepared.shape, start=start)


def _record_of(trained: Adapter | None, folder: Path | None) -> probe.Recorded | None:
    if trained is None or folder is None or trained.card.probe is None:
        return None
    return trained.card.probe, folder
