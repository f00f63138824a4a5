"""The recipes that ship with the package: where they are, what they say, copying one.

In an installed wheel they lie in accept_llm/_recipes, in a clone in recipes/ beside the package; a
name is the path below that folder, such as methods/lora. Files below sweeps/ are many runs in one.
It knows nothing of what is inside a recipe but its opening comments.
"""

import re
from pathlib import Path

import yaml

from accept_llm.errors import RecipeError, refusal
from accept_llm.recipe.types import NAME
from accept_llm.storage import atomic_file, home_path

_PACKAGE = Path(__file__).resolve().parent.parent
_PLACES = (_PACKAGE / "_recipes", _PACKAGE.parent / "recipes")
_SWEEPS = "sweeps"


def _shipped_files() -> dict[str, Path]:
    folder = next((place for place in _PLACES if place.is_dir()), None)
    paths = sorted(folder.rglob("*.yaml")) if folder else []
    return {p.relative_to(folder).with_suffix("").as_posix(): p for p in paths if folder}


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of every recipe that ships, by name."""
    files = _shipped_files().items()
    return {name: path for name, path in files if not name.startswith(f"{_SWEEPS}/")}


def shipped_sweeps() -> dict[str, Path]:
    """Name -> file of every sweep that ships, by name."""
    files = _shipped_files().items()
    return {name: path for name, path in files if name.startswith(f"{_SWEEPS}/")}


def describe_recipe(path: Path) -> str:
    """The comments a recipe opens with: its command, then a line or more on what it is."""
    comments: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comments.append(line.removeprefix("#").strip())
    return "\n".join(comments)


def copy_recipe(name: str, out: Path) -> Path:
    """Copies a shipped recipe or sweep to the file `out`, or into the folder `out`; returns the
    file. Its path below recipes/ names it, or the last part of that where no other ends so.

    Raises RecipeError for an unknown name, and where a file already stands.
    """
    shipped = _shipped_files()
    wanted = name.removesuffix(".yaml")
    ends = [path for path in shipped.values() if path.stem == wanted]
    source = shipped.get(wanted) or (ends[0] if len(ends) == 1 else None)
    if source is None:
        raise RecipeError([f"recipes: {refusal(name, list(shipped), allowed=', '.join(shipped))}"])
    out = home_path(out)
    target = out / source.name if out.is_dir() else out
    if target.exists():
        raise RecipeError([f"recipes: {target} exists and is left as it is"])
    try:
        with atomic_file(target, replace=False) as file:
            file.write(_named_after(target, source).encode("utf-8"))
    except FileExistsError:
        raise RecipeError([f"recipes: {target} exists and is left as it is"]) from None
    except OSError as error:
        raise RecipeError([f"recipes: cannot write {target} ({error.strerror})"]) from None
    return target


def _named_after(target: Path, source: Path) -> str:
    """The recipe's text with the name of the copy: that of its runs, and in its first comment."""
    text = source.read_text(encoding="utf-8")
    ours = rf"\S*/{re.escape(source.name)}(?=\s)"
    text = re.sub(ours, lambda _: str(target), text, count=1)
    if not re.fullmatch(NAME, target.stem):
        got = f"recipes: got {target.name!r}, which names the copy and its runs"
        raise RecipeError([f"{got}; allowed: letters, digits, '.', '_' and '-'"])
    quoted, *_ = yaml.safe_dump(target.stem).splitlines()  # 'yes' and '2024' need it
    return re.sub(r"^name: .*$", lambda _: f"name: {quoted}", text, count=1, flags=re.MULTILINE)
