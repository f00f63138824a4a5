"""Turns what is wrong with a recipe into lines a person can act on.

Each line has the field's path, what was given, what is allowed, and "did you mean".
It walks the pydantic classes it is given and knows no field by name.
"""

import difflib
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError


class RecipeError(ValueError):
    """What a user wrote cannot be used. `problems` has one line for each mistake."""

    def __init__(self, problems: Sequence[str], *, source: str | None = None):
        self.problems = list(problems)
        head = f"{source}: {len(self.problems)} problem(s)\n" if source else ""
        super().__init__(head + "\n".join(f"  {line}" if source else line for line in problems))


def did_you_mean(word: str, choices: Sequence[str]) -> str:
    """ ", did you mean 'x'?" or nothing."""
    close = difflib.get_close_matches(str(word), list(choices), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _classes(annotation: Any) -> Iterator[type[BaseModel]]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _classes(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _classes(part)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation


def _tags(cls: type[BaseModel]) -> tuple[str, ...]:
    field = cls.model_fields.get("kind")
    return get_args(field.annotation) if field else ()


def _class_at(root: type[BaseModel], path: Sequence[str], data: Any) -> type[BaseModel] | None:
    """The class that checks the mapping at `path`, choosing in a union by its `kind`."""
    cls = root
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
        if key not in cls.model_fields:
            return None
        found = list(_classes(cls.model_fields[key].annotation))
        kind = data.get("kind") if isinstance(data, dict) else None
        found = [c for c in found if len(found) == 1 or kind in _tags(c)]
        if not found:
            return None
        cls = found[0]
    return cls


def drop_foreign_keys(
    data: dict[str, Any], path: Sequence[str], root: type[BaseModel]
) -> list[str]:
    """After `kind` changed at `path`: removes the keys of the old kind; says which."""
    node: Any = data
    for key in path:
        node = node[key]
    cls = _class_at(root, path, data)
    if cls is None:
        return []
    where = ".".join(path)
    foreign = [key for key in node if key not in cls.model_fields]
    for key in foreign:
        del node[key]
    return [
        f"{where}.{key} is left out: {where}.kind={node['kind']} has no such key" for key in foreign
    ]


def _user_path(loc: Sequence[Any], data: Any) -> list[str]:
    """pydantic's location without the tags of discriminated unions."""
    path: list[str] = []
    for part in loc:
        if isinstance(data, dict) and part not in data and part == data.get("kind"):
            continue
        path.append(str(part))
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            data = None
    return path


def _unknown_key(path: list[str], data: Any, root: type[BaseModel]) -> str:
    cls = _class_at(root, path[:-1], data)
    allowed = list(cls.model_fields) if cls else []
    where = ".".join(path)
    hint = did_you_mean(path[-1], allowed)
    return f"{where}: unknown key {path[-1]!r}{hint} allowed: {', '.join(allowed)}".replace(
        "' a", "'; a"
    )


def _bad_kind(where: str, error: Any) -> str:
    allowed = [tag.strip("' ") for tag in error["ctx"]["expected_tags"].split(",")]
    got = error["ctx"]["tag"]
    hint = did_you_mean(got, allowed)
    return f"{where}.kind: got {got!r}{hint}; allowed: {', '.join(allowed)}".replace("?;", "?")


def _plain(where: str, error: Any) -> list[str]:
    kind, given = error["type"], error["input"]
    if kind == "missing":
        return [f"{where}: missing; it must be given"]
    if kind == "union_tag_not_found":
        return [f"{where}.kind: missing; got {_short(given)}; allowed: a mapping with a `kind`"]
    message = error["msg"].removeprefix("Value error, ")
    if kind == "value_error" and isinstance(given, dict):
        lines = message.split("\n")  # our own checks across fields
        return [where + line if line.startswith(".") or not where else line for line in lines]
    if kind == "value_error" and isinstance(given, BaseModel):
        return message.split("\n")
    allowed = message.removeprefix("Input should be ")
    hint = ""
    if kind == "literal_error":
        hint = did_you_mean(str(given), [c.strip("' ") for c in _choices(allowed)])
    return [f"{where}: got {_short(given)}{hint}; allowed: {allowed}".replace("?;", "?")]


def _choices(text: str) -> list[str]:
    return text.replace(" or ", ", ").split(",")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def describe(error: ValidationError, data: Any, root: type[BaseModel]) -> list[str]:
    """One line or more for each problem pydantic found in `data`."""
    lines: list[str] = []
    for item in error.errors(include_url=False):
        path = _user_path(item["loc"], data)
        where = ".".join(path)
        if item["type"] == "extra_forbidden":
            lines.append(_unknown_key(path, data, root))
        elif item["type"] == "union_tag_invalid":
            lines.append(_bad_kind(where, item))
        else:
            lines += _plain(where, item)
    return lines
