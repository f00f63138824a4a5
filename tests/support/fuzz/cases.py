"""A case: a folder with something damaged in it, and the commands that meet it. The sort, the seed
and the number of a case say everything about it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import yaml

from support.fuzz.recipes import Changed, draw_recipes
from support.fuzz.rows import write_rows
from support.fuzz.tensors import damage_tensors
from support.fuzz.values import damage_bytes, damage_file, damage_json
from support.runs import recipe_data, write_reviews

KINDS = ("csv", "tsv", "json", "jsonl", "parquet", "csv.gz", "tsv.gz", "jsonl.gz", "json.gz")
ROWS = 24
READERS = ("plain", "t5", "lora", "dept", "offsets")  # runs whose rows have one text


@dataclass(frozen=True)
class World:
    """Whole models and finished runs, which the cases copy."""

    folder: Path
    models: dict[str, Path]
    runs: dict[str, Path]
    recipe: dict[str, Any]
    """A good one."""


@dataclass
class Case:
    """What is run, and what is known of its end."""

    commands: list[list[str]]
    done: str
    given: bytes = b""
    answers: int | None = None
    """So many answers, if `predict` gives any."""
    rows: dict[str, int] = field(default_factory=dict)
    """So many rows of each split, if `train` takes them."""


def base_recipe(folder: Path, model: Path) -> dict[str, Any]:
    """A good recipe of two steps; its rows are written to the folder, from where they are named."""
    data = recipe_data(folder, model, steps=2, eval_every=2, batch_size=4, lr=0.01)
    for name in ("train", "validation", "test"):
        data["task"][name] = f"{name}.jsonl"
    return {**data, "output_dir": "runs"}


def _write_recipe(folder: Path, data: dict[str, Any]) -> None:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(data))


# --- recipes ----------------------------------------------------------------------------


class Recipes:
    """Recipes, drawn once for all cases of a seed."""

    def __init__(self, world: World, seed: int, *, count: int):
        self.changed = draw_recipes(world.recipe, count, start=seed)

    def __call__(self, world: World, folder: Path, draw: Random, *, number: int) -> Case:
        changed = self.changed[number]
        if draw.random() < 0.15:
            return _used_run(world, folder, changed, draw=draw)
        for name in ("train", "validation", "test"):
            write_reviews(folder / f"{name}.jsonl", ROWS, seed=number)
        shutil.copytree(world.runs["plain"], folder / "runs/older")
        shutil.copytree(world.folder / "data", folder / "data")
        data = changed.data
        if draw.random() < 0.25 and _is_folder(data.get("model")):
            data["model"]["path"] = str(world.models["t5"])
        _write_recipe(folder, data)
        done = changed.done
        if draw.random() < 0.08:
            path = folder / "recipe.yaml"
            content, damage = damage_bytes(path.read_bytes(), draw)
            path.write_bytes(content)
            done += f"; {damage}"
        train = ["train", "recipe.yaml", *changed.overrides, *_short(data, changed.overrides)]
        plan = ["plan", "recipe.yaml", *changed.overrides]
        return Case(
            [["validate", "recipe.yaml"], *draw.choice([[plan], [train], [plan, train]])], done
        )


def _is_folder(model: Any) -> bool:
    return isinstance(model, dict) and model.get("kind") == "folder"


def _short(data: dict[str, Any], overrides: list[str]) -> list[str]:
    """Overrides that let a run end soon: two steps, nothing compiled, no bitsandbytes (whose own
    warnings are many)."""
    train, model = data.get("train"), data.get("model")
    steps = train.get("steps") if isinstance(train, dict) else None
    more = []
    if any("steps" in text for text in overrides) or (isinstance(steps, int) and steps > 3):
        more.append("train.steps=2")
    asked = isinstance(model, dict) and model.get("compile", False) is not False
    if asked or any("compile" in text for text in overrides):
        more.append("model.compile=false")
    if "bnb" in f"{model} {overrides}":
        more.append("model.quantization=null")
    return more


def _used_run(world: World, folder: Path, changed: Changed, *, draw: Random) -> Case:
    """A finished run whose recipe.yaml is another one."""
    run = Path(shutil.copytree(world.runs[draw.choice(list(world.runs))], folder / "run"))
    if draw.random() < 0.5:
        (run / "recipe.yaml").write_text(yaml.safe_dump(changed.data))
    commands = [["evaluate", "run", *changed.overrides], ["predict", "run"]]
    return Case([draw.choice(commands)], f"a run: {changed.done}", given=b"a lamp\nthe soup\n")


# --- rows -------------------------------------------------------------------------------


def data_case(world: World, folder: Path, draw: Random, *, number: int) -> Case:
    name = f"rows.{KINDS[number % len(KINDS)]}"
    count = draw.choice([ROWS, ROWS, 11, 1])
    known, done = write_rows(folder / name, draw, count=count)
    role = draw.choice(["train", "train", "test", "predict", "predict", "plan"])
    if role == "predict":
        run = str(world.runs[draw.choice(READERS)])
        return Case([["predict", run, "--input", name]], done, answers=known)
    if role == "test":
        return Case([["evaluate", str(world.runs["plain"]), f"task.test={name}"]], done)
    for other in ("train", "validation", "test"):
        write_reviews(folder / f"{other}.jsonl", ROWS, seed=number)
    data = base_recipe(folder, world.models["llama"])
    split = draw.choice(["train", "validation", "test"])
    data["task"][split] = name
    _write_recipe(folder, data)
    command = [role, "recipe.yaml"]
    return Case([command], f"task.{split}: {done}", rows={} if known is None else {split: known})


def lines_case(world: World, folder: Path, draw: Random, *, number: int) -> Case:
    """Lines of text or JSON on the standard input of `predict`."""
    known, done = write_rows(folder / "in.jsonl", draw, count=5)
    content = (folder / "in.jsonl").read_bytes()
    if draw.random() < 0.3:
        texts = ["a lamp", "\ufefflamp", "{", "{}", "[1]", '{"review": 3}', "\u2028", "\0", "é\r"]
        lines = draw.choices(texts, k=4)
        content, known, done = "\n".join(lines).encode(), None, f"lines {lines}"
    run = str(world.runs[draw.choice(READERS)])
    return Case([["predict", run]], done, given=content, answers=known)


# --- adapters and models ----------------------------------------------------------------


def adapter_case(world: World, folder: Path, draw: Random, *, number: int) -> Case:
    names = list(world.runs)
    run = Path(shutil.copytree(world.runs[names[number % len(names)]], folder / "run"))
    done = _damage(run / "prompt", draw, likely=("prompt.json", "prompt.json", ".safetensors"))
    command = draw.choice([["evaluate", "run"], ["predict", "run"]])
    given = b"a lamp\nthe soup\n"
    if names[number % len(names)] == "score":
        given = b'{"sentence1": "a lamp", "sentence2": "the soup"}\n' * 2
    return Case([command], done, given=given, answers=2)


MODEL_FILES = (
    "config.json",
    "config.json",
    "safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "",
)


def model_case(world: World, folder: Path, draw: Random, *, number: int) -> Case:
    names = list(world.models)
    kind = names[number % len(names)]
    model = Path(shutil.copytree(world.models[kind], folder / "model"))
    done = f"{kind}: {_damage(model, draw, likely=MODEL_FILES)}"
    if draw.random() < 0.25:
        run = {"llama": "plain", "t5": "t5"}.get(kind, "plain")
        command = ["evaluate", str(world.runs[run]), "model.path=model"]
        return Case([command], done)
    for name in ("train", "validation", "test"):
        write_reviews(folder / f"{name}.jsonl", ROWS, seed=number)
    data = base_recipe(folder, Path("model"))
    data["head"] = {"kind": draw.choice(["linear", "choice"])}
    data["model"]["quantization"] = draw.choice([None, None, None, "int8"])
    if draw.random() < 0.2:
        data["method"] = {"kind": "lora", "rank": 2}
    _write_recipe(folder, data)
    train = ["train", "recipe.yaml"]
    return Case([draw.choice([train, train, ["plan", "recipe.yaml"]])], done)


def _damage(folder: Path, draw: Random, *, likely: tuple[str, ...]) -> str:
    """Changes a file of the folder whose name ends in one of these."""
    ending = draw.choice(likely)
    path = draw.choice([p for p in sorted(folder.iterdir()) if p.name.endswith(ending)] or [folder])
    if path.suffix == ".json":
        return damage_json(path, draw)
    return damage_tensors(path, draw) if path.suffix == ".safetensors" else damage_file(path, draw)


Make = Callable[..., Case]
SORTS: dict[str, tuple[Make, ...]] = {
    "data": (data_case, data_case, data_case, lines_case),
    "adapters": (adapter_case,),
    "models": (model_case,),
}


def make_case(
    sort: str, folder: Path, *, world: World, place: tuple[int, int], recipes: Recipes
) -> Case:
    """The case of a sort at its place, which is a seed and a number, made in an empty folder."""
    seed, number = place
    draw = Random(f"{sort} {seed} {number}")
    makers = SORTS.get(sort, (recipes,))
    return makers[number % len(makers)](world, folder, draw, number=number)


def describe(case: Case) -> str:
    """The case for the eye."""
    commands = [" ".join(command) for command in case.commands]
    return f"{case.done[:500]!a}\n    commands: {json.dumps(commands)}"
