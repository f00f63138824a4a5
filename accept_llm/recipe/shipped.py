"""The recipes that ship with the package: where they are, what they say, copying one.

In an installed wheel they lie in accept_llm/_recipes, in a clone in recipes/ beside the
package. It knows nothing of what is inside a recipe but its opening comments.
"""

from pathlib import Path

from accept_llm.errors import RecipeError, refusal

_PACKAGE = Path(__file__).resolve().parent.parent
_PLACES = (_PACKAGE / "_recipes", _PACKAGE.parent / "recipes")


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of every recipe that ships, by name."""
    folder = next((place for place in _PLACES if place.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))} if folder else {}


def describe_recipe(path: Path) -> str:
    """The comments a recipe opens with: its command, then a line or more on what it is."""
    comments: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comments.append(line.removeprefix("#").strip())
    return "\n".join(comments)


def copy_recipe(name: str, out: Path) -> Path:
    """Copies a shipped recipe to the file `out`, or into the folder `out`; returns the file.

    Raises RecipeError for an unknown name, and where a file already stands.
    """
    shipped = shipped_recipes()
    source = shipped.get(name.removesuffix(".yaml"))
    if source is None:
        raise RecipeError([f"recipes: {refusal(name, list(shipped), ', '.join(shipped))}"])
    target = out / source.name if out.is_dir() else out
    try:
        with target.open("x", encoding="utf-8") as file:  # "x" never overwrites
            file.write(source.read_text(encoding="utf-8"))
    except FileExistsError:
        raise RecipeError([f"recipes: {target} exists and is left as it is"]) from None
    except OSError as error:
        raise RecipeError([f"recipes: cannot write {target} ({error.strerror})"]) from None
    return target
