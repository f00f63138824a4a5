"""What the commands do, as functions: they raise and return. What there is to tell meanwhile goes
to `notify`, which shows nothing unless it is given: `notify=print`.

Each checks what it can before torch is loaded. RecipeError names everything that is wrong with what
was asked for; TrainingError and BackboneError say that a run cannot go on.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from accept_llm.checks import Prepared, prepare_evaluation, prepare_training
from accept_llm.data.inputs import make_inputs
from accept_llm.data.splits import SPLITS
from accept_llm.engines.check import on_swarm
from accept_llm.engines.facts import ALONE, ENGINES, facts_of
from accept_llm.errors import Notify, RecipeError, short, silent
from accept_llm.models.find import fetch_model
from accept_llm.plan.plan import check_memory
from accept_llm.ranks import is_first_here, is_rank
from accept_llm.recipe.model import ModelSpec
from accept_llm.recipe.recipe import Recipe, load_recipe, override_recipe
from accept_llm.runs.folder import ADAPTER, read_run
from accept_llm.runs.result import RESULT, Result, read_result
from accept_llm.tasks.base import Example

Overrides = Mapping[str, Any] | Sequence[str]
Resume = bool | Literal["changed-data"]
"""Whether to go on with a run, also where its rows have changed."""
BATCHES_AT_ONCE = 16
"""Of new inputs, that are sorted by length together; their answers come one such lot at a time."""


def _texts(overrides: Overrides) -> list[str]:
    """{"train.seed": 1} as the command line has it: train.seed=1."""
    if isinstance(overrides, Mapping):
        return [
            f"{path}={json.dumps(value, default=str, ensure_ascii=False)}"
            for path, value in overrides.items()
        ]
    if isinstance(overrides, str) or not all(isinstance(text, str) for text in overrides):
        allowed = "a mapping of fields to values, or a list of FIELD=VALUE"
        raise RecipeError([f"overrides: got {short(overrides)}; allowed: {allowed}"])
    return list(overrides)


def _changed(recipe: Any, overrides: Overrides) -> tuple[Recipe, list[str]]:
    """The recipe with its changes, and notes on them."""
    if isinstance(recipe, Recipe):
        return override_recipe(recipe, _texts(overrides))
    if isinstance(recipe, str | Path):
        return load_recipe(recipe, _texts(overrides))
    allowed = "a Recipe, or the path of a recipe file"
    raise RecipeError([f"recipe: got {short(recipe)}; allowed: {allowed}"])


# --- training ---------------------------------------------------------------------------


def train(
    recipe: Recipe | str | Path,
    overrides: Overrides = (),
    *,
    engine: str = ALONE,
    resume: Resume = False,
    force: bool = False,
    notify: Notify = silent,
) -> Result:
    """Trains a recipe, or one with changes, and writes its run folder; gives its result.

    `engine` is one of accept_llm/engines/facts.py. One with several ranks needs its processes
    started (torchrun, `accelerate launch`). `resume="changed-data"` goes on though the rows are
    others, and records it; `force` skips the check of memory. Raises `Stopped`
    where SIGTERM or Ctrl-C ended the run early.
    """
    if engine not in ENGINES:
        raise RecipeError([f"engine: got {engine!r}; allowed: {', '.join(ENGINES)}"])
    changed, notes = _changed(recipe, overrides)
    for note in notes:
        notify(f"note: {note}")
    prepared = prepare(changed, engine, resume=bool(resume), force=force, notify=notify)
    if facts_of(engine).has_ranks and not is_rank():
        how = facts_of(engine).command
        raise RecipeError([f"engine: {engine} needs its processes started for it: {how}"])
    return run(prepared, engine, resume=resume, notify=notify)


def prepare(
    recipe: Recipe, engine: str, *, resume: bool = False, force: bool = False, notify: Notify
) -> Prepared:
    """Checks everything that can be checked before a weight is loaded, and fetches a model that is
    not on this machine; RecipeError with every problem."""
    prepared = prepare_training(recipe, engine, resume=resume)
    facts = facts_of(engine)
    # The launcher's own process does not know the number of ranks yet.
    ranks_known = facts.is_local and (not facts.has_ranks or is_rank())
    if not force and is_first_here() and ranks_known:
        unknown = check_memory(prepared, engine)
        if unknown:
            notify(f"note: {unknown}")
    if prepared.model is None and not is_rank():
        # One that cannot be had shows before torch is loaded.
        prepared = prepared.with_model(fetch_model(recipe.model))
    return prepared


def run(
    prepared: Prepared,
    engine: str,
    *,
    resume: Resume = False,
    notify: Notify = silent,
    bar: bool = False,
) -> Result:
    """Trains what was prepared, in this process or as one of the ranks; `bar` shows a progress bar
    on a terminal."""
    recipe = prepared.recipe
    if resume and not recipe.run_dir.exists():
        notify(f"note: there is no {recipe.run_dir} to resume; the run starts at step 0")
    for note in prepared.rows.notes:
        notify(f"note: {note}")
    notify(f"{recipe.name}: {prepared.rows.summary}; loading the model")
    from accept_llm.training.run import train as train_prepared

    return train_prepared(prepared, engine_kind=engine, resume=resume, notify=notify, bar=bar)


# --- after training ---------------------------------------------------------------------


def evaluate(
    run_folder: str | Path,
    overrides: Overrides = (),
    *,
    split: str = "test",
    peers: Sequence[str] | None = None,
    notify: Notify = silent,
) -> dict[str, float]:
    """Scores the adapter of a run folder on a split of its task; here, or on a swarm (`peers`)."""
    if split not in SPLITS:
        raise RecipeError([f"split: got {split!r}; allowed: {', '.join(SPLITS)}"])
    prepared, engine = prepare_run(run_folder, overrides, split=split, peers=peers, notify=notify)
    return score_split(prepared, engine, split=split, notify=notify)


def predict(
    run_folder: str | Path,
    inputs: Sequence[str | Mapping[str, Any]],
    *,
    overrides: Overrides = (),
    peers: Sequence[str] | None = None,
    notify: Notify = silent,
) -> list[dict[str, Any]]:
    """Answers for new inputs, each a text (a task of one column) or a mapping of its columns: an
    id, and a label with probabilities, a score or a text."""
    prepared, engine = prepare_run(run_folder, overrides, split=None, peers=peers, notify=notify)
    examples = make_inputs(inputs, prepared.task)
    return list(answer(prepared, engine, examples=examples, notify=notify))


def prepare_run(
    folder: str | Path,
    overrides: Overrides = (),
    *,
    split: str | None,
    peers: Sequence[str] | None = None,
    notify: Notify = silent,
) -> tuple[Prepared, str]:
    """Checks a run folder, its adapter and its model before a weight is loaded, and reads the rows
    where a `split` of them is wanted; with the engine that computes it."""
    if split not in (None, *SPLITS):
        raise RecipeError([f"split: got {split!r}; allowed: {', '.join(SPLITS)}"])
    recipe, notes = read_run(Path(folder), _texts(overrides), split=split, remote=bool(peers))
    for note in notes:
        notify(f"note: {note}")
    recipe, engine = on_swarm(recipe, peers)
    prepared = prepare_evaluation(recipe, engine, read_rows=split is not None)
    for note in prepared.splits.file_notes if prepared.splits else ():
        notify(f"note: {note}")
    return prepared, engine


def _note_other_rows(prepared: Prepared, split: str, *, notify: Notify) -> None:
    """A note where the rows are not those that result.json tells the scores of; without a
    result.json that can be read there is nothing to compare."""
    from accept_llm.training.state import digest

    path = prepared.recipe.run_dir / RESULT
    try:
        known = read_result(path.parent).row_digests.get(split)
    except RecipeError:
        return
    if known not in (None, digest(getattr(prepared.rows, split))):
        notify(f"note: the {split} rows are not those that {path} is of")


def score_split(
    prepared: Prepared, engine: str, *, split: str, notify: Notify = silent
) -> dict[str, float]:
    """The scores of a prepared run's adapter."""
    from accept_llm.training.evaluate import check_finite, score

    _note_other_rows(prepared, split, notify=notify)
    with _loaded(prepared, engine, notify=notify) as predicted:
        rows, found = predicted(getattr(prepared.rows, split))
        check_finite(found, losses=True)
        return score(prepared.task, rows, predictions=found)


def answer(
    prepared: Prepared, engine: str, *, examples: Sequence[Example], notify: Notify = silent
) -> Iterator[dict[str, Any]]:
    """The answers of a prepared run's adapter to some examples, as they come."""
    from accept_llm.training.evaluate import as_json, check_finite

    size = prepared.recipe.train.eval_batch_size * BATCHES_AT_ONCE
    with _loaded(prepared, engine, notify=notify) as predicted:
        for start in range(0, len(examples), size):
            _, found = predicted(examples[start : start + size])
            check_finite(found, losses=False)
            yield from (as_json(prepared.task, prediction) for prediction in found)


@contextmanager
def _loaded(
    prepared: Prepared, engine: str, *, notify: Notify
) -> Iterator[Callable[[Sequence[Example]], tuple[Any, Any]]]:
    """Gives, for examples, the encoded rows and a prediction for each."""
    from accept_llm.engines.base import opened_engine
    from accept_llm.training.evaluate import predict as predict_rows
    from accept_llm.training.loading import load

    recipe = prepared.recipe
    with opened_engine(engine, recipe.engine) as opened:
        loaded = load(prepared, opened, notify=notify, adapter=recipe.run_dir / ADAPTER)

        def predicted(examples: Sequence[Example]) -> tuple[Any, Any]:
            rows, size = loaded.encode(examples), recipe.train.eval_batch_size
            return rows, predict_rows(loaded.model, rows, batch_size=size)

        yield predicted


# --- a swarm's reference ----------------------------------------------------------------


def record_probe(spec: ModelSpec) -> Path:
    """Computes the probe text with the whole model on one device, for swarms to be checked by;
    where it is kept."""
    from accept_llm.engines.base import opened_engine
    from accept_llm.models.tokenizer import load_tokenizer
    from accept_llm.swarm import probe
    from accept_llm.swarm.folder import check_family

    with opened_engine(ALONE) as engine:
        info = fetch_model(spec)
        check_family(info)
        backbone = engine.load_backbone(spec, info, layout="padded")
        tokenizer, kind = load_tokenizer(info.folder), probe.kind_of(spec)
        found = probe.take(backbone, tokenizer, info=info, kind=kind, device=engine.device)
        return probe.record(found, info)
