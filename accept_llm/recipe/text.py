"""A recipe's text: YAML into a mapping, and `a.b=c` changes to it. It knows no field by name
but `kind`, and checks no value.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from accept_llm.errors import Problems, RecipeError, did_you_mean, short

Mapping = dict[str, Any]

# PyYAML reads some values with Python's own parsers, such as dates: ValueError.
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)


def read_mapping(path: Path) -> Mapping:
    """The mapping in a YAML file; RecipeError says why there is none, or names doubled keys."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"byte {error.start} is {error.object[error.start]:#x}"
        raise RecipeError([f"recipe: {path} is not UTF-8 text ({where})"]) from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise RecipeError([_unreadable(path, error)]) from None
    try:
        data, doubled = _parse(text)
    except _NOT_YAML as error:
        raise RecipeError([f"recipe: {path} is not YAML: {_why(error)}"]) from None
    if not isinstance(data, dict):
        got = "nothing" if data is None else f"a {type(data).__name__}"
        raise RecipeError([f"recipe: {path} holds {got}; allowed: a mapping of keys to values"])
    if doubled:
        raise RecipeError([f"{line} (in {path})" for line in doubled])
    return data


def _unreadable(path: Path, error: Exception) -> str:
    if path.is_dir():
        return f"recipe: got {path}, which is a folder; allowed: a YAML file"
    if isinstance(error, FileNotFoundError):
        near = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, near) or ";"
        ours = "`accept-llm recipes` lists those that ship"
        return f"recipe: got {path}, which does not exist{hint} allowed: a YAML file ({ours})"
    return f"recipe: cannot read {path} ({getattr(error, 'strerror', None) or error})"


def _why(error: Exception) -> str:
    """One line of what YAML's parser says in many."""
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    message = getattr(error, "problem", None) or str(error).splitlines()[0]
    tab = "; indent with spaces, not tabs" if "'\\t'" in message else ""
    return f"{where}{message}{tab}"


def _parse(text: str) -> tuple[Any, list[str]]:
    """The data of a YAML text and a line for each doubled key, of which YAML takes the last."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        doubled = list(_find_doubled(node, (), seen=set()))
        return (None if node is None else loader.construct_document(node)), doubled
    finally:
        loader.dispose()


def _find_doubled(node: Any, path: tuple[str, ...], *, seen: set[int]) -> Iterator[str]:
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _find_doubled(item, (*path, str(number)), seen=seen)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in lines:
            where = ".".join((*path, name))
            yield f"{where}: given twice (lines {lines[name]} and {line}); allowed: once"
        lines.setdefault(name, line)
        yield from _find_doubled(value, (*path, name), seen=seen)


def half_characters(data: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """A line for each text, key or value, that UTF-8 cannot hold: no file, tokenizer or console can
    either. YAML makes such texts of escapes."""
    if isinstance(data, str):
        try:
            data.encode()
        except UnicodeEncodeError as error:
            what = f"half a character (a lone surrogate) at {error.start}"
            yield f"{'.'.join(path)}: got {data[:40]!a}, with {what}; allowed: text"
    elif isinstance(data, list):
        for number, item in enumerate(data):
            yield from half_characters(item, (*path, str(number)))
    elif isinstance(data, dict):
        for key, value in data.items():
            name = str(key).encode("ascii", "backslashreplace").decode()
            yield from half_characters(key, (*path, name))
            yield from half_characters(value, (*path, name))


# --- overrides --------------------------------------------------------------------------


@dataclass(frozen=True)
class Override:
    """A change asked for as `a.b=c`."""

    text: str
    path: tuple[str, ...]
    value: Any

    @property
    def switches_kind(self) -> bool:
        return self.path[-1] == "kind"


def parse_overrides(texts: Sequence[str], problems: Problems) -> list[Override]:
    """Changes of `kind` come first, so that they never drop what another change sets.

    A malformed one is left out, and said in `problems`.
    """
    found = []
    for text in texts:
        with problems.catch():
            found.append(_override(text))
    return sorted(found, key=lambda change: not change.switches_kind)


def _override(text: str) -> Override:
    key, equals, value = text.partition("=")
    path = tuple(key.split("."))
    if not equals or not all(part.strip() == part != "" for part in path):
        raise RecipeError([f"override: got {text!r}; allowed: a.b=c, such as train.steps=100"])
    try:
        new, doubled = _parse(value)
    except _NOT_YAML as error:
        message = f"override: got {text!r}, whose value is not YAML: {_why(error)}"
        raise RecipeError([f"{message}; put it in quotes twice, as in name=\"'a: b'\""]) from None
    if doubled:
        raise RecipeError([f"override: got {text!r}: {line}" for line in doubled])
    return Override(text, path, new)


def apply_override(data: Mapping, change: Override) -> bool:
    """Makes the change in place, creating missing sections; whether it switched a `kind`."""
    node = data
    for depth, part in enumerate(change.path[:-1], 1):
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
        if not isinstance(node, dict):
            where = ".".join(change.path[:depth])
            message = f"override: got {change.text!r}, but {where} is {short(node)}"
            raise RecipeError([f"{message}; allowed: keys below a mapping"])
    last = change.path[-1]
    switched = change.switches_kind and node.get("kind") not in (None, change.value)
    node[last] = change.value
    return switched
