"""The plan of a run: whether it fits, under every engine and weight format, from the model's
config.json and some rows of the task. No torch, and no weight is read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from accept_llm.checks import Prepared
from accept_llm.data.sources import sample, task_from
from accept_llm.engines.check import check_format
from accept_llm.engines.facts import ALONE, LOCAL, SHARDED, facts_of
from accept_llm.errors import RecipeError
from accept_llm.models.find import find_linears, read_config
from accept_llm.models.sizes import Sizes, read_sizes
from accept_llm.plan.lengths import SAMPLE, count_tokens, measure
from accept_llm.plan.machine import find_launched, find_machine
from accept_llm.plan.memory import Estimate, Machine, Placement, Work, estimate
from accept_llm.recipe.budget import LinearSize, Shape
from accept_llm.recipe.model import Quantization
from accept_llm.recipe.recipe import Recipe
from accept_llm.tasks.base import Example, Task, score_text

MARGIN = 0.15  # how far an estimate may be off
MOST_ROWS = 1 << 20


@dataclass(frozen=True)
class Row:
    """An engine with a weight format: what it needs, and the largest pass that would fit."""

    needs: Estimate
    memory: float
    """Bytes that a rank may take."""
    fits: str
    """yes; close (within 15 % of the memory, either way); no."""
    rows: int
    """Examples in the largest pass of a rank that fits; 0 where not one does."""
    tokens: int
    """Their tokens, the prompt not counted."""


@dataclass(frozen=True)
class Plan:
    """All rows, and what they were computed from."""

    recipe: Recipe
    engine: str
    """The recipe's, or the one that was asked for."""
    sizes: Sizes
    work: Work
    machine: Machine
    rows: tuple[Row, ...]
    disk: float
    """Bytes: the checkpoint, the run folder, and tokens that are kept."""
    changes: tuple[str, ...]
    """Recipe lines that make it fit, where it does not."""

    @property
    def chosen(self) -> Row:
        """The recipe's own row."""
        asked = (self.engine, self.recipe.model.quantization)
        return next(r for r in self.rows if (r.needs.engine, r.needs.quantization) == asked)


def make_plan(
    recipe: Recipe,
    *,
    gpus: int | None = None,
    gpu_memory: float | None = None,
    engine: str | None = None,
    rate: float | None = None,
) -> Plan:
    """The plan of a recipe on this machine, or on `gpus` GPUs of `gpu_memory` bytes each; without
    GPUs, `gpus` processes share the host. `rate`: FLOP/s of one device.

    RecipeError: a model that is not known, rows that cannot be read, an engine that cannot hold
    the recipe's weights.
    """
    machine = find_machine(gpus, gpu_memory, rate=rate)
    named = recipe.engine.kind if recipe.engine else None
    kind = engine or named or (ALONE if machine.ranks == 1 else SHARDED)
    if kind not in LOCAL:
        got = f"engine.kind: got {kind!r}, whose weights lie on other machines"
        raise RecipeError([f"{got}; --engine plans for: {', '.join(LOCAL)}"])
    rows = sample(recipe.task, SAMPLE)
    return _plan(_look_up(recipe, task_from(recipe.task), rows=rows), kind, machine=machine)


def check_memory(prepared: Prepared, engine: str) -> str | None:
    """Refuses a run that this machine's memory cannot hold, with the lines to change. Gives a note
    where the model's sizes are not known, and nothing can be checked."""
    try:
        plan = _plan(_known(prepared), engine, machine=find_launched())
    except RecipeError as error:
        return f"memory is not checked: {error.problems[0]}"
    if plan.chosen.fits == "no":
        needs, where = plan.chosen.needs, "GPU" if plan.machine.device == "cuda" else "process"
        got = f"memory: the run needs about {_gb(needs.total)} a {where} (weights "
        got += f"{_gb(needs.weights)}, activations {_gb(needs.activations)})"
        todo = "; ".join(plan.changes) or "nothing in the recipe is enough"
        raise RecipeError(
            [f"{got}; allowed: {_gb(plan.chosen.memory)}; change: {todo}; or --force to try"]
        )
    return None


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


@dataclass(frozen=True)
class Subject:
    """What a plan is made of: a recipe, what follows from it on its model, and some of its rows."""

    recipe: Recipe
    task: Task
    sizes: Sizes
    shape: Shape
    folder: Path | None
    """The model's, where it is here."""
    examples: list[Example]
    count: int
    """All training rows."""


def _look_up(recipe: Recipe, task: Task, *, rows: tuple[list[Example], int]) -> Subject:
    """The subject of a recipe alone, whose model may be known by its config only."""
    config, folder = read_config(recipe.model)
    sizes, model_type = read_sizes(config), str(config.get("model_type"))
    linears: tuple[LinearSize, ...] = ()
    if recipe.method.is_inside:
        linears = find_linears(folder) or sizes.linear_layers(model_type)
        if not linears:
            got = f"method.kind: got {recipe.method.kind!r}, which is inside the model's layers"
            todo = f"allowed for {model_type!r} where its weights are: their names are not known"
            raise RecipeError([f"{got}; {todo}"])
    shape = recipe.method.shape(
        hidden=sizes.hidden,
        positions=recipe.task.max_length,
        model_type=model_type,
        linears=linears,
    )
    return Subject(recipe, task, sizes, shape, folder, *rows)


def _known(prepared: Prepared) -> Subject:
    """The subject of a recipe whose rows are read, and whose model was looked at if it is here."""
    recipe, task, train = prepared.recipe, prepared.task, prepared.rows.train
    rows = train[:SAMPLE], len(train)
    if prepared.model is None or prepared.shape is None:
        return _look_up(recipe, task, rows=rows)
    sizes = read_sizes(prepared.model.config)
    return Subject(recipe, task, sizes, prepared.shape, prepared.model.folder, *rows)


def _plan(subject: Subject, kind: str, *, machine: Machine) -> Plan:
    recipe, sizes = subject.recipe, subject.sizes
    check_format(recipe, kind)
    work = _work(subject)
    places = [
        _place(recipe, local, quantization=held)
        for local in LOCAL
        for held in facts_of(local).quantizations
    ]
    rows = tuple(_row(sizes, work, machine=machine, placement=place) for place in places)
    plan = Plan(
        recipe, kind, sizes, work, machine, rows, _disk(subject.folder, sizes, work=work), ()
    )
    return replace(plan, changes=tuple(_changes(plan))) if plan.chosen.fits == "no" else plan


# --- what is computed -------------------------------------------------------------------


def _work(subject: Subject) -> Work:
    recipe, sizes, shape = subject.recipe, subject.sizes, subject.shape
    train, head, classes = recipe.train, recipe.head, len(subject.task.labels)
    lengths = measure(
        recipe.task,
        subject.task,
        examples=subject.examples,
        rows=subject.count,
        folder=subject.folder,
    )
    batch = train.batch_size or max(1, int((train.tokens_per_batch or 0) / lengths.mean))
    return Work(
        lengths=lengths,
        prompt=shape.length,
        composed=shape.composed,
        trained=shape.parameters + head.parameters(hidden=sizes.hidden, classes=classes),
        inside=shape.inputs_kept,
        batch=batch,
        micro=train.micro_batch_size,
        evaluated=train.eval_batch_size,
        answer=_answer(subject),
        choices=len(head.texts(subject.task) or [""]),
        generates=head.answer_limit > 0,
        packed=not sizes.decoder_layers and recipe.model.layout != "padded",
        checkpointing=recipe.model.checkpointing,
        width=2 if recipe.model.dtype == "bf16" else 4,
    )


MOST_LABEL_TOKENS = 8  # of a label's text, where no tokenizer is at hand


def _answer(subject: Subject) -> int:
    """Tokens that the model is trained to say, its end included: on average, and half again."""
    head = subject.recipe.head
    texts, limit = head.texts(subject.task), head.answer_limit
    if texts is None and not limit:
        return head.reads_token
    if texts is None:
        labels = [example.label for example in subject.examples]
        texts = [x[0] if isinstance(x, tuple) else score_text(x) for x in labels]
    counts = count_tokens(texts, subject.folder) if texts and subject.folder else None
    most = limit or MOST_LABEL_TOKENS
    return min(most, round(1.5 * sum(counts) / len(counts)) + 1) if counts else most


def _disk(folder: Path | None, sizes: Sizes, *, work: Work) -> float:
    files = [file for file in folder.glob("*.safetensors") if file.is_file()] if folder else []
    stored = sum(file.stat().st_size for file in files)
    run = 4 * work.trained * 7  # the best adapter twice; prompt, gradients' moments, and a spare
    tokens = work.lengths.rows * work.lengths.mean * 4
    return (stored or 2.0 * sizes.parameters) + run + tokens


# --- what fits --------------------------------------------------------------------------


def _place(recipe: Recipe, engine: str, *, quantization: Quantization | None) -> Placement:
    """How an engine holds the weights, with the options of the recipe's section for it."""
    spec = recipe.engine if recipe.engine and recipe.engine.kind == engine else None
    return Placement(
        engine,
        quantization,
        offload=getattr(spec, "offload", False),
        shard_size=getattr(spec, "shard_size", None),
        in_fp32=getattr(spec, "param_dtype", None) is not None,
    )


def _row(sizes: Sizes, work: Work, *, machine: Machine, placement: Placement) -> Row:
    def needs(work: Work) -> Estimate:
        return estimate(sizes, work, machine=machine, placement=placement)

    ranks, memory = machine.used_by(placement.engine), machine.memory
    if machine.device == "cpu" and not facts_of(placement.engine).has_ranks:
        memory *= machine.ranks  # the whole host
    low, high = 0, MOST_ROWS  # rows that fit, and that do not
    while high - low > 1:
        middle = (low + high) // 2
        tried = replace(
            work, batch=middle * ranks, micro=None, evaluated=min(work.evaluated, middle)
        )
        low, high = (middle, high) if needs(tried).total <= memory else (low, middle)
    total = needs(work).total
    close = abs(total / memory - 1) <= MARGIN
    fits = "close" if close else "yes" if total < memory else "no"
    return Row(needs(work), memory, fits, low, round(low * work.lengths.mean))


def _changes(plan: Plan) -> Iterator[str]:
    """The first of these that fits: smaller passes, blocks computed again, int8 weights, shards
    over more devices."""
    model, work, machine = plan.recipe.model, plan.work, plan.machine
    formats: list[Quantization | None] = [model.quantization]
    if "int8" in facts_of(plan.engine).quantizations and model.quantization is None:
        formats.append("int8")
    for quantization in formats:
        for again in dict.fromkeys((model.checkpointing, True)):
            tried = replace(work, checkpointing=again)
            row = _row(
                plan.sizes,
                tried,
                machine=machine,
                placement=_place(plan.recipe, plan.engine, quantization=quantization),
            )
            if not row.rows:
                continue
            if quantization != model.quantization:
                yield f"model.quantization: {quantization}"
            if again != model.checkpointing:
                yield "model.checkpointing: true"
            size = _power_of_two(row.rows)
            if size < work.rows(machine.used_by(plan.engine)):
                yield f"train.micro_batch_size: {size}"
            if size < work.evaluated:
                yield f"train.eval_batch_size: {size}"
            return
    for ranks in (2, 4, 8, 16, 32):
        more = replace(machine, ranks=ranks)
        if machine.device == "cuda" and ranks > machine.ranks:
            row = _row(plan.sizes, work, machine=more, placement=Placement(SHARDED, formats[-1]))
            if row.rows:
                command = facts_of(SHARDED).command.replace(" N ", f" {ranks} ")
                yield f"engine: {{kind: {SHARDED}}}  # on {ranks} such GPUs: {command}"
                return


def _power_of_two(number: int) -> int:
    return 1 << (max(1, number).bit_length() - 1)
