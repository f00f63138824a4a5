"""The shape of the code: who imports whom, how long things are, what stands twice."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from accept_llm.recipe.recipe import load_recipe
from accept_llm.recipe.shipped import copy_recipe, describe_recipe, shipped_recipes

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "accept_llm"

# A module imports only from rows above its own, or from its own row.
LAYERS = [
    ["errors", "storage", "ranks"],
    ["tasks"],
    ["recipe"],
    ["data", "models", "methods", "runs"],
    ["backbones"],
    ["heads", "swarm"],
    ["adapter", "engines"],
    ["training", "checks", "plan"],
    ["api"],
    ["cli"],
    ["__main__"],
]
ROW = {name: row for row, names in enumerate(LAYERS) for name in names}

LONGEST_FUNCTION = 60
LONGEST_FILE = {"accept_llm": 350, "launchers": 350, "benchmarks": 350, "tests": 600}
LONGEST_REPEAT = 5


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


# --- imports ----------------------------------------------------------------------------


def module_parts(path: Path) -> list[str]:
    """accept_llm/tasks/glue.py -> ["accept_llm", "tasks", "glue"]."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported_names(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported, inside functions too."""
    parts = module_parts(path)
    package = parts if path.name == "__init__.py" else parts[:-1]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{stem}.{alias.name}") for alias in node.names)


def layer_of(parts: list[str]) -> str | None:
    """The package's module that a dotted name belongs to; None for the package itself."""
    return parts[1] if len(parts) > 1 and parts[1] in ROW else None


def upward_imports(path: Path) -> list[str]:
    own = module_parts(path)[1]
    problems = []
    for line, name in imported_names(path):
        if name.split(".")[0] != "accept_llm":
            continue
        target = layer_of(name.split("."))
        if target and ROW[target] > ROW[own]:
            problems.append(f"{relative(path)}:{line}: {own} imports {target}, which is above it")
    return problems


def test_every_module_has_a_layer() -> None:
    modules = {module_parts(path)[1] for path in sources("accept_llm") if path.parent != PACKAGE}
    modules |= {path.stem for path in PACKAGE.glob("*.py") if path.name != "__init__.py"}
    unknown = sorted(modules - set(ROW))
    assert not unknown, f"put these into LAYERS of {relative(Path(__file__))}: {unknown}"


def test_no_upward_import() -> None:
    known = [path for path in sources("accept_llm") if layer_of(module_parts(path))]
    problems = [line for path in known for line in upward_imports(path)]
    assert not problems, "\n".join(problems)


HEAVY = {"torch", "transformers", "datasets", "matplotlib", "accelerate"}


def loaded_by(module: str) -> set[str]:
    """The modules in a fresh process that has imported this one."""
    command = [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module", ["accept_llm", "accept_llm.recipe.recipe", "accept_llm.recipe.shipped"]
)
def test_import_is_light(module: str) -> None:
    assert not loaded_by(module) & {*HEAVY, "numpy"}


@pytest.mark.parametrize(
    "module",
    [
        "cli.main",
        "plan.plan",
        "checks",
        "data.splits",
        "models.find",
        "data.inputs",
        "runs.folder",
    ],
)
def test_what_checks_a_recipe_is_light(module: str) -> None:
    assert not loaded_by(f"accept_llm.{module}") & HEAVY


def test_help_needs_no_recipe_schema() -> None:
    """Making pydantic's classes takes longer than all the rest of `accept-llm --help`."""
    assert not loaded_by("accept_llm.cli.main") & {"pydantic", "yaml", "accept_llm.recipe"}


# --- sizes ------------------------------------------------------------------------------


def test_no_long_function() -> None:
    long = []
    for path in sources(*LONGEST_FILE):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long.append(f"{relative(path)}:{node.lineno}: {node.name} has {lines} lines")
    assert not long, "\n".join(long)


def test_no_long_file() -> None:
    long = []
    for folder, longest in LONGEST_FILE.items():
        for path in sources(folder):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > longest:
                long.append(f"{relative(path)} has {lines} lines, more than {longest}")
    assert not long, "\n".join(long)


# --- repeats ----------------------------------------------------------------------------


def _skipped_lines(tree: ast.Module) -> set[int]:
    """Lines of imports and docstrings."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if text or isinstance(node, ast.Import | ast.ImportFrom):
            skipped.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return skipped


def significant_lines(path: Path) -> list[tuple[int, str]]:
    """Number and stripped text of the lines that are code."""
    skipped = _skipped_lines(parsed(path))
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    stripped = [(number, line.strip()) for number, line in lines if number not in skipped]
    return [(number, line) for number, line in stripped if line and not line.startswith("#")]


def repeated_passages(paths: list[Path], length: int) -> list[str]:
    """Passages of `length` code lines that stand twice, without overlapping."""
    seen: dict[tuple[str, ...], tuple[Path, int, int]] = {}
    repeats = []
    for path in paths:
        lines = significant_lines(path)
        for start in range(len(lines) - length + 1):
            window = tuple(line for _, line in lines[start : start + length])
            first, at, line = seen.setdefault(window, (path, start, lines[start][0]))
            if first != path or start >= at + length:
                here = f"{relative(path)}:{lines[start][0]}"
                repeats.append(f"{here} repeats {relative(first)}:{line}: {window[0]}")
    return repeats


def test_nothing_stands_twice() -> None:
    repeats = repeated_passages(sources(*LONGEST_FILE), LONGEST_REPEAT + 1)
    assert not repeats, "\n".join(repeats)


# --- recipes ----------------------------------------------------------------------------


def test_recipes_ship() -> None:
    assert set(shipped_recipes()) == {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    assert shipped_recipes(), "no recipe in recipes/"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_recipe_loads_and_says_how_to_run_it(path: Path) -> None:
    recipe, notes = load_recipe(path)
    assert recipe.name == path.stem
    assert notes == []
    command, *about = describe_recipe(path).splitlines()
    starts = ("accept-llm train ", "accelerate launch ", "torchrun ", "python launchers/")
    assert command.startswith(starts), f"the first line is {command!r}, not a command"
    assert f"recipes/{path.name}" in command.split()
    assert about, "the second line must be a comment that says what the recipe is"


PAPER = "mnli qqp qnli sst2 stsb mrpc rte cola multirc boolq wic wsc.fixed cb".split()
PAPER_QA = "nq hotpotqa searchqa newsqa".split()


def test_t5_base_on_the_17_tasks_of_the_paper() -> None:
    """They differ in the task, its head, the steps and the LR of SCAP, and in nothing else."""
    paths = (ROOT / "recipes").glob("t5_base_*.yaml")
    recipes = {path.stem.removeprefix("t5_base_"): load_recipe(path)[0] for path in paths}
    assert set(recipes) == {*PAPER, *PAPER_QA}
    rest = set()
    for name, recipe in recipes.items():
        assert recipe.task.kind == name
        large = name in {"mnli", "qqp", "qnli", "sst2", *PAPER_QA}
        assert recipe.train.steps == (300_000 if large else 30_000)
        writes = name in {"stsb", *PAPER_QA}
        assert recipe.head.kind == ("generate" if writes else "choice")
        data = recipe.model_dump()
        del data["name"], data["head"], data["task"]["kind"], data["task"]["max_length"]
        del data["train"]["steps"], data["train"]["lr"]["added"]
        rest.add(str(data))
    assert len(rest) == 1


def test_copy_recipe_never_overwrites(tmp_path: Path) -> None:
    name, source = next(iter(shipped_recipes().items()))
    target = copy_recipe(name, tmp_path)
    assert target == tmp_path / f"{name}.yaml"
    assert target.read_text() == source.read_text()
    target.write_text("mine")
    with pytest.raises(ValueError, match="exists and is left as it is"):
        copy_recipe(name, tmp_path)
    assert target.read_text() == "mine"


def test_copy_recipe_knows_what_you_meant(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'quickstart'") as caught:
        copy_recipe("quikstart", tmp_path)
    assert all(name in str(caught.value) for name in shipped_recipes())
    assert list(tmp_path.iterdir()) == []
