"""Recipes out of the JSON schema: good ones with some of its places changed, in the file or by
overrides. A new field of a recipe is drawn without an edit here."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from accept_llm.recipe.recipe import schema
from support.fuzz.values import ODD

SCHEMA: dict[str, Any] = json.loads(schema())
Path = tuple[str, ...]
Draw = Callable[[st.SearchStrategy[Any]], Any]

# Small ones, as the models here are: inside these a recipe should train.
METHODS: tuple[dict[str, Any], ...] = (
    {"kind": "accept", "budget": 12, "length": 6, "prepended": {"subspaces": 5}},
    {"kind": "accept", "budget": 9, "length": 0, "scale": "none"},
    {"kind": "pt", "budget": 5},
    {"kind": "dept", "budget": 9, "length": 4},
    {"kind": "lora", "rank": 2},
)
HEADS: dict[str, tuple[dict[str, Any], ...]] = {
    "file": ({"kind": "linear"}, {"kind": "label_words"}, {"kind": "choice"}),
    "stsb": ({"kind": "linear"}, {"kind": "generate", "max_new_tokens": 4}),
}
NUMBERS = (0, 1, 2, 3, 5, 8, 16, 24, 64, 100, 1000, 2**20, 2**31 - 1)
TEXTS = ("a", "run", "text", "bad", "good", "review", "label", "é", "x" * 300, "1", "null", "")
PATHS = (
    *(
        "runs",
        ".",
        "",
        "older",
        "rows.jsonl",
        "train.jsonl",
        "gone/é",
        "a b/'c'",
        "a\0b",
        "x" * 5000,
    ),
    *("/dev/null", "/dev/zero", "~nobody/x", "/proc/1/mem", "../" * 40 + "proc/x", "train.jsonl/x"),
)


@dataclass(frozen=True)
class Changed:
    """A recipe as a mapping, further changes to it as overrides, and what was done."""

    data: dict[str, Any]
    overrides: list[str]
    done: str


def draw_recipes(base: dict[str, Any], count: int, *, start: int) -> list[Changed]:
    """So many changed recipes; the same ones for the same base and start."""
    found: list[Changed] = []

    @seed(start)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(_changed(base))
    def collect(changed: Changed) -> None:
        found.append(changed)

    collect()
    return found


# --- the schema -------------------------------------------------------------------------


def _resolve(node: dict[str, Any]) -> dict[str, Any]:
    name = node.get("$ref", "").rpartition("/")[-1]
    return SCHEMA["$defs"][name] if name else node


def _kinds(node: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternatives of a node, those without keys too."""
    node = _resolve(node)
    return [_resolve(part) for part in node.get("oneOf", node.get("anyOf", [node]))]


def _places(node: dict[str, Any], above: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every key path that the schema has, with its node; a key of several kinds for each."""
    for kind in _kinds(node):
        for name, below in kind.get("properties", {}).items():
            yield (*above, name), below
            yield from _places(below, (*above, name))


def _valid(node: dict[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """Values that the schema allows, small ones and those at its bounds."""
    alternatives = _kinds(node)
    if len(alternatives) > 1:
        return st.one_of([_valid(part, depth) for part in alternatives])
    (node,) = alternatives
    if "const" in node or "enum" in node:
        return st.sampled_from(node.get("enum") or [node["const"]])
    return _BY_TYPE.get(node.get("type", ""), lambda *_: st.sampled_from(ODD))(node, depth)


def _object(node: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:
    names = node.get("properties", {})
    if not names:
        more = node.get("additionalProperties")
        values = _valid(more, depth + 1) if isinstance(more, dict) else st.sampled_from(ODD)
        keys = st.sampled_from(("head", "prepended", "added", "lora", "bad", "good", "other"))
        return st.dictionaries(keys, values, max_size=3)
    needed = {name: _valid(names[name], depth + 1) for name in node.get("required", ())}
    rest = {name: _valid(x, depth + 1) for name, x in names.items() if name not in needed}
    return st.fixed_dictionaries(needed, optional=rest if depth < 3 else {})


def _number(node: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:
    low = node.get("minimum", node.get("exclusiveMinimum", -math.inf))
    allowed = [n for n in NUMBERS if low <= n <= node.get("maximum", math.inf)]
    if node["type"] == "number":
        allowed += [0.5, 1e-3, 1e-300, 1e300]  # type: ignore[list-item]
    return st.sampled_from(allowed)


_BY_TYPE: dict[str, Callable[[dict[str, Any], int], st.SearchStrategy[Any]]] = {
    "object": _object,
    "integer": _number,
    "number": _number,
    "boolean": lambda node, depth: st.booleans(),
    "null": lambda node, depth: st.none(),
    "string": lambda node, depth: st.sampled_from(TEXTS),
    "array": lambda node, depth: st.lists(
        _valid(node.get("items", {}), depth + 1), max_size=node.get("maxItems", 3)
    ),
}


# --- changes ----------------------------------------------------------------------------

PLACES = list(_places(SCHEMA))


def _at(data: Any, path: Path) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def _put(data: dict[str, Any], path: Path, value: Any) -> bool:
    """Sets a key, or removes it where the value is ...; False where there is no such mapping."""
    for key in path[:-1]:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            return False
    if value is ...:
        return data.pop(path[-1], ...) is not ...
    data[path[-1]] = value
    return True


def _value(place: tuple[Path, dict[str, Any]], draw: Draw) -> Any:
    path, node = place
    kind = draw(st.sampled_from(["valid"] * 7 + ["odd"] * 4 + ["drop"]))
    if kind == "drop":
        return ...
    if kind == "odd":
        return draw(st.sampled_from(ODD))
    if path[-1] in ("path", "train", "validation", "test", "dir", "file", "output_dir"):
        return draw(st.sampled_from(PATHS))
    return draw(_valid(node))


@st.composite
def _changed(draw: Draw, base: dict[str, Any]) -> Changed:
    data: dict[str, Any] = json.loads(json.dumps(base))
    if draw(st.integers(0, 3)) == 0:
        data["task"] = {"kind": "stsb", "dir": "data", "max_length": 40}
    data["method"] = dict(draw(st.sampled_from(METHODS)))
    data["head"] = dict(draw(st.sampled_from(HEADS[data["task"]["kind"]])))
    kinds = [data[section]["kind"] for section in ("task", "method", "head")]
    done, overrides = [" ".join(kinds)], list[str]()
    likely = [place for place in PLACES if _at(data, place[0][:-1]) is not None]
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
        place = draw(st.sampled_from(PLACES if draw(st.integers(0, 3)) == 0 else likely))
        path, value = place[0], _value(place, draw)
        if draw(st.integers(0, 15)) == 0:
            path, value = (*path[:-1], "unknown"), 1
        text = f"{'.'.join(path)} {str(value)[:60]!a}"
        if value is not ... and draw(st.integers(0, 3)) == 0:
            overrides.append(_override(path, value, as_json=draw(st.booleans())))
            done.append(f"override {text}")
        elif _put(data, path, value):
            done.append(text)
    return Changed(data, overrides, "; ".join(done))


def _override(path: Path, value: Any, *, as_json: bool) -> str:
    text = json.dumps(value) if as_json else str(value).replace("\0", "\\0")
    text = text.encode("utf-8", "replace").decode()  # what a command line can hold
    return f"{'.'.join(path)}={text}"
