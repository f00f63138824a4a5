"""Turns what pydantic finds wrong with a recipe into lines a person can act on.

It walks the classes it is given and knows no field by name.
"""

import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from accept_llm.errors import RecipeError, did_you_mean, refusal, short
from accept_llm.recipe.upgrade import RENAMED

T = TypeVar("T")

# What pydantic calls it -> what is allowed, with the names of the error's context.
_ALLOWED = {
    **dict.fromkeys(["int_type", "int_parsing", "int_from_float"], "a whole number"),
    **dict.fromkeys(["float_type", "float_parsing"], "a number"),
    **dict.fromkeys(["bool_type", "bool_parsing"], "true or false"),
    **dict.fromkeys(["model_type", "model_attributes_type", "dict_type"], "a mapping of keys"),
    **dict.fromkeys(["dataclass_type", "mapping_type"], "a mapping of keys"),
    "tuple_type": "a list",
    "finite_number": "a finite number",
    "string_type": "text",
    "string_pattern_mismatch": "text of the form {pattern}",
    "list_type": "a list, as in [a, b]",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
}


# --- the classes ------------------------------------------------------------------------


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


def _classes_at(root: type[BaseModel], path: Sequence[str], *, data: Any) -> list[type[BaseModel]]:
    """The classes that may check the mapping at `path`; unions on the way choose by `kind`."""
    found = [root]
    for key in path:
        cls = _chosen(found, data)
        if cls is None or key not in cls.model_fields:
            return []
        found = list(_classes(cls.model_fields[key].annotation))
        data = data.get(key) if isinstance(data, dict) else None
    return found


def _chosen(classes: list[type[BaseModel]], data: Any) -> type[BaseModel] | None:
    kind = data.get("kind") if isinstance(data, dict) else None
    fit = [cls for cls in classes if len(classes) == 1 or kind in _tags(cls)]
    return fit[0] if fit else None


def _at(data: Any, path: Sequence[str]) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def drop_foreign_keys(
    data: dict[str, Any], path: Sequence[str], *, root: type[BaseModel]
) -> list[str]:
    """Removes the keys of the old kind after `kind` changed at `path`; a line for each."""
    node = _at(data, path)
    cls = _chosen(_classes_at(root, path, data=data), node)
    if cls is None:
        return []
    where = ".".join(path)
    foreign = [key for key in node if key not in cls.model_fields]
    for key in foreign:
        del node[key]
    return [
        f"{where}.{key} is left out: {where}.kind={node['kind']} has no such key" for key in foreign
    ]


# --- the lines --------------------------------------------------------------------------


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


def _unknown_key(path: list[str], data: Any, *, root: type[BaseModel]) -> str:
    parent = _at(data, path[:-1])
    cls = _chosen(_classes_at(root, path[:-1], data=data), parent)
    allowed = list(cls.model_fields) if cls else []
    kind = f" for kind {parent['kind']!r}" if cls and _tags(cls) else ""
    where = ".".join(path)
    if where in RENAMED:
        how = "`accept-llm recipes upgrade FILE` rewrites it"
        return f"{where}: unknown key, did you mean {RENAMED[where]!r}, its name now? {how}"
    hint = did_you_mean(path[-1], allowed) or _elsewhere(path, root) or ";"
    return f"{where}: unknown key{kind}{hint} allowed: {', '.join(allowed)}"


def _elsewhere(path: list[str], root: type[BaseModel]) -> str:
    """Another section that has such a key, for one that stands in the wrong place."""
    key = path[-1]
    for name, field in root.model_fields.items():
        known = any(key in cls.model_fields for cls in _classes(field.annotation))
        if known and name != path[0]:
            return f", did you mean '{name}.{key}'?"
    return ""


def _bad_kind(path: list[str], item: Any, *, data: Any, root: type[BaseModel]) -> str:
    kinds = [tag for cls in _classes_at(root, path, data=data) for tag in _tags(cls)]
    where, given = ".".join(path), item["input"]
    if isinstance(given, dict) and "kind" in given:
        return f"{where}.kind: {refusal(given['kind'], kinds, allowed=', '.join(kinds))}"
    if isinstance(given, dict):
        return f"{where}.kind: missing; allowed: {', '.join(kinds)}"
    return f"{where}: got {short(given)}; allowed: a mapping with a kind ({', '.join(kinds)})"


def _plain(where: str, item: Any) -> list[str]:
    """A line for a value that is wrong, or the lines of one of our own checks."""
    kind, given, context = item["type"], item["input"], item.get("ctx", {})
    message = item["msg"].removeprefix("Value error, ")
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return [f"{where}: unknown key"]
    if kind.startswith("missing"):
        return [f"{where}: missing; it must be given"]
    if kind == "value_error" and isinstance(given, dict | BaseModel):  # paths below `where`
        return [f"{where}.{line}".removeprefix(".") for line in message.split("\n")]
    if kind == "literal_error":
        choices = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        return [f"{where}: {refusal(given, choices, allowed=', '.join(choices))}"]
    if kind == "invalid_key" or where.endswith(".[key]"):
        where = where.removesuffix(".[key]")
        return [f"{where}: got a key that is not text; allowed: keys in quotes"]
    allowed = _ALLOWED.get(kind, message.removeprefix("Input should be ")).format_map(context)
    scalar = given is not None and not isinstance(given, list | dict)
    quotes = " (put it in quotes)" if kind == "string_type" and scalar else ""
    return [f"{where}: got {short(given)}; allowed: {allowed}{quotes}"]


def parse_section(cls: type[T], data: Any, *, where: str) -> T:
    """An object of `cls` out of a section of a file; RecipeError with a line for each problem:
    `where`, and the field's path in the section."""
    try:
        return TypeAdapter(cls).validate_python(data)
    except ValidationError as error:
        lines: list[str] = []
        for item in error.errors(include_url=False):
            path = ".".join(map(str, item["loc"]))
            lines += _plain(f"{where}{path}".rstrip(" .:"), item)
        raise RecipeError(lines) from None


def _is_union(path: list[str], data: Any, *, root: type[BaseModel]) -> bool:
    return len(_classes_at(root, path, data=data)) > 1


def _is_renamed(path: list[str], data: Any) -> bool:
    """Whether the key that is missing is there under an earlier name."""
    olds = [old.split(".") for old, now in RENAMED.items() if now == ".".join(path)]
    return any(_at(data, old) is not None for old in olds)


def describe(error: ValidationError, data: Any, *, root: type[BaseModel]) -> list[str]:
    """One line or more for each problem pydantic found in `data`."""
    lines: list[str] = []
    for item in error.errors(include_url=False):
        path = _user_path(item["loc"], data)
        if item["type"] == "missing" and _is_renamed(path, data):
            continue  # the old key has a line of its own
        if item["type"] == "extra_forbidden":
            lines.append(_unknown_key(path, data, root=root))
        elif item["type"].startswith(("union_tag", "model_")) and _is_union(path, data, root=root):
            lines.append(_bad_kind(path, item, data=data, root=root))
        else:
            lines += _plain(".".join(path), item)
    return lines
