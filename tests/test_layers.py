"""The shape of the code: who imports whom, how long things are, what stands twice."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from accept_llm.cli.main import COMMANDS
from accept_llm.recipe.engine import ENGINE_KINDS

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "accept_llm"

# A module imports only from rows above its own, or from its own row.
LAYERS = [
    ["errors", "storage", "drafts", "ranks"],
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


def test_the_top_level_is_small() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 10
    assert len(LAYERS) <= 13


def module_imports(path: Path) -> set[Path]:
    """The package's own files that a file imports, inside functions too; what only a type checker
    reads is left out."""
    tree = parsed(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name):
            node.body = node.body if node.test.id != "TYPE_CHECKING" else [ast.Pass()]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("accept_llm."):
            for alias in node.names:
                for dotted in (f"{node.module}.{alias.name}", node.module or ""):
                    target = ROOT.joinpath(*dotted.split(".")).with_suffix(".py")
                    if target.is_file():
                        found.add(target)
                        break
    return found


def test_no_import_cycle() -> None:
    graph = {path: module_imports(path) for path in sources("accept_llm")}
    done: set[Path] = set()

    def visit(path: Path, above: tuple[Path, ...]) -> None:
        assert path not in above, " -> ".join(map(relative, (*above, path)))
        if path not in done:
            for target in sorted(graph.get(path, ())):
                visit(target, (*above, path))
            done.add(path)

    for path in graph:
        visit(path, ())


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
        "api",
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


# --- parameters -------------------------------------------------------------------------

Function = ast.FunctionDef | ast.AsyncFunctionDef
MOST_PARAMETERS, MOST_POSITIONAL = 6, 2
# Their callers are libraries, which give what they give by position.
PRESCRIBED = {
    "_Linear.forward": "torch.autograd.Function",
    "_Product.forward": "torch.autograd.Function",
    "_TransposedProduct.forward": "torch.autograd.Function",
    "OneBuffer.__call__": "FSDP2's all-gather",
    "packed_attention": "transformers' AttentionInterface",
    "sees": "FlexAttention's mask_mod",
    "hook": "torch's forward hooks",
}


def functions(path: Path) -> Iterator[tuple[str, bool, Function]]:
    """Every function of a file: its name below the class, whether its first parameter is the
    object or the class, and its node."""

    def below(node: ast.AST, cls: str) -> Iterator[tuple[str, bool, Function]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                marks = [d.id for d in child.decorator_list if isinstance(d, ast.Name)]
                yield f"{cls}{child.name}", bool(cls) and "staticmethod" not in marks, child
            inner = f"{child.name}." if isinstance(child, ast.ClassDef) else ""
            yield from below(child, inner)

    yield from below(parsed(path), "")


def is_command(path: Path, name: str, node: Function) -> bool:
    """Whether Typer calls the function, which takes its parameters' names from it."""
    place = f"{path.stem}.{name}"
    marked = any(isinstance(d, ast.Call) and "command" in ast.dump(d) for d in node.decorator_list)
    starts = place in ("train.command", "swarm_demo.main")
    return place in COMMANDS.values() or marked or starts


def test_few_parameters_and_two_by_position() -> None:
    many = []
    for path in sources("accept_llm", "launchers", "benchmarks"):
        for name, bound, node in functions(path):
            if name in PRESCRIBED or is_command(path, name, node):
                continue
            positional = [*node.args.posonlyargs, *node.args.args][bound:]
            count = len(positional) + len(node.args.kwonlyargs)
            if len(positional) > MOST_POSITIONAL or count > MOST_PARAMETERS:
                where = f"{relative(path)}:{node.lineno}: {name}"
                many.append(f"{where} has {count} parameters, {len(positional)} by position")
    assert not many, "\n".join(many)


# --- engine names -----------------------------------------------------------------------

ENGINE_PLACES = ("recipe/engine.py", "engines/", "swarm/", "cli/swarm.py")


def docstrings(tree: ast.Module) -> set[int]:
    """The nodes of the texts that stand alone."""
    alone = (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr))
    return {id(value) for value in alone if isinstance(value, ast.Constant)}


def engine_words(path: Path) -> Iterator[str]:
    """Names and texts of a file, but for docstrings, in which an engine's name stands."""
    tree = parsed(path)
    skipped = docstrings(tree)
    for node in ast.walk(tree):
        words: list[str] = []
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = [] if id(node) in skipped else [node.value]
        elif isinstance(node, ast.Name | ast.Attribute):
            words = [node.id if isinstance(node, ast.Name) else node.attr]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.alias):
            words = [node.name]
        for word in words:
            parts = [part.lower() for part in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+", word)]
            # "single" is a word of its own: only where it stands alone.
            found = [k for k in ENGINE_KINDS if k == word or (k != "single" and k in parts)]
            if found:
                yield f"{relative(path)}:{getattr(node, 'lineno', '?')}: {word!r} names {found[0]}"


def test_engine_names_stand_in_few_places() -> None:
    """A new engine is a row of engines/facts.py; nobody else asks which one it is."""
    elsewhere = [
        path
        for path in sources("accept_llm")
        if not path.relative_to(PACKAGE).as_posix().startswith(ENGINE_PLACES)
    ]
    problems = [line for path in elsewhere for line in engine_words(path)]
    assert not problems, "\n".join(problems)


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
