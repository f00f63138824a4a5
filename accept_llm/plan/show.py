"""Prints a plan, and gives it as JSON."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from accept_llm.plan.plan import Plan, Row

NEEDS = ("frozen", "activations", "trained", "buffers", "process", "total", "fits")
LIMITS = ("largest batch", "host", "a step", "received")
NOTES = """\
GB (1e9 bytes) of one rank while it trains. frozen: the weights that it holds; trained: method and
head, their gradients, Adam's moments and what the method composes; buffers: gathered or dequantised
weights, messages; process: {process}.
fits: close is within 15 %, which is how far this may be off. largest batch: tokens (examples) of
one pass of a rank. host: memory of all ranks. received: what a rank receives in a step.
Time counts matrix products at {rate:,.3g} TFLOP/s a rank ({source}), and no traffic."""


def print_plan(plan: Plan, *, engine: str | None) -> None:
    """The tables (of one engine, if it is named), what they stand on, and what to change."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    print("\n".join(_facts(plan)))
    rows = [row for row in plan.rows if engine in (None, row.needs.engine)]
    for names, cells in ((NEEDS, _needs), (LIMITS, _limits)):
        table = Table(box=SIMPLE_HEAD, padding=(0, 0), pad_edge=False)
        for name in ("engine", "quantization", *names):
            justify: Any = "left" if name in ("engine", "quantization") else "right"
            table.add_column(name, justify=justify)
        for row in rows:
            mark = "*" if row is plan.chosen else ""
            table.add_row(row.needs.engine + mark, row.needs.quantization or "none", *cells(row))
        Console().print(table)
    print("\n".join(_ends(plan)))


def _facts(plan: Plan) -> Iterator[str]:
    sizes, work, machine = plan.sizes, plan.work, plan.machine
    where = {"cpu": "process(es) on the CPU", "cuda": "GPU(s)"}[machine.device]
    mb = work.trained * 4 / 1e6
    yield (
        f"{plan.recipe.name}: {sizes.parameters / 1e6:,.1f}M parameters frozen, {work.trained:,} "
        f"trained (MB: method and head {mb:.2f}, gradients {mb:.2f}, optimizer {2 * mb:.2f})"
    )
    yield f"{machine.ranks} {where} with {machine.memory / 1e9:.1f} GB each; {work.lengths.source}"
    ranks = machine.used_by(plan.engine)
    yield (
        f"a step under {plan.engine}: {work.batch} examples, on each rank {work.passes(ranks)} "
        f"pass(es) of {work.rows(ranks)}, {work.prompt} prompt tokens"
    )


def _needs(row: Row) -> list[str]:
    needs = row.needs
    sizes = (needs.weights, needs.activations, needs.trained, needs.buffers, needs.process)
    return [*(f"{size / 1e9:.2f}" for size in (*sizes, needs.total)), row.fits]


def _limits(row: Row) -> list[str]:
    needs = row.needs
    return [
        f"{row.tokens:,} ({row.rows:,})" if row.rows else "none",
        f"{needs.host / 1e9:.1f} GB",
        f"{needs.seconds:.2g} s",
        f"{needs.traffic / 1e9:.1f} GB",
    ]


def _ends(plan: Plan) -> Iterator[str]:
    machine = plan.machine
    process = "Python, libraries, rows and tokenizer"
    if machine.device == "cuda":
        process = "CUDA's own on the GPU"
    yield NOTES.format(process=process, rate=machine.rate / 1e12, source=machine.rate_source)
    yield f"Disk: {plan.disk / 1e9:.2f} GB for checkpoint, kept tokens and the run folder."
    row = plan.chosen
    yield f"* the recipe: {row.needs.total / 1e9:.2f} GB of {row.memory / 1e9:.1f}: {row.fits}"
    if row.fits == "no":
        yield "Recipe lines to change:"
        yield from (f"    {line}" for line in plan.changes or ("(none is enough)",))


def as_dict(plan: Plan) -> dict[str, Any]:
    """Everything in bytes and seconds, for JSON."""
    rows = {
        f"{row.needs.engine} {row.needs.quantization or 'none'}": {
            **asdict(row.needs),
            "total": row.needs.total,
            "fits": row.fits,
            "largest_rows": row.rows,
            "largest_tokens": row.tokens,
        }
        for row in plan.rows
    }
    return {
        "recipe": plan.recipe.name,
        "engine": plan.engine,
        "quantization": plan.recipe.model.quantization,
        "model": {**asdict(plan.sizes), "parameters": plan.sizes.parameters},
        "work": asdict(plan.work),
        "machine": asdict(plan.machine),
        "rows": rows,
        "disk": plan.disk,
        "changes": list(plan.changes),
    }
