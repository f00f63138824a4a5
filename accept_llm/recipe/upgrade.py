"""Keys of a recipe that have another name now: what to write in their place, and rewriting them in
a mapping or, with its comments, in a file's text. Knows no class of a recipe.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from accept_llm.errors import RecipeError

RENAMED = {
    "prompt": "method",
    "model.weights": "model.quantization",
    "head.says": "head.verbalizer",
}
"""Path of an old key -> that of the key in its place, in the same section."""

_VALUES: dict[str, dict[Any, Any]] = {"model.weights": {"bf16": None}}
"""Path of an old key -> its values that are written otherwise now."""


KEPT_SCALE = "method.scale is none, as it was before there was another"


def upgrade(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A recipe's mapping with the names of today, and a line for each key that had another, and for
    one that must be there now so that the recipe means the same."""
    new: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in data.items()}
    lines = []
    for old, now in RENAMED.items():
        section, _, key = old.rpartition(".")
        at = new.get(section) if section else new
        if not isinstance(at, dict) or key not in at:
            continue
        name = now.rpartition(".")[2]
        _refuse_both(old, now, both=name in at)
        value = at[key]
        if isinstance(value, str):
            value = _VALUES.get(old, {}).get(value, value)
        # In the place of the old key, so that a dump keeps its order.
        items = [(name, value) if k == key else (k, v) for k, v in at.items()]
        at.clear()
        at.update(items)
        lines.append(f"{old} is {now} now")
        if old == "prompt" and keep_scale(value):
            lines.append(KEPT_SCALE)
    return new, lines


def keep_scale(method: Any) -> bool:
    """Adds `scale: none` behind the kind of a method that was written before there was a scale;
    whether it was missing."""
    if not isinstance(method, dict) or "kind" not in method or "scale" in method:
        return False
    items = list(method.items())
    place = list(method).index("kind") + 1
    method.clear()
    method.update([*items[:place], ("scale", "none"), *items[place:]])
    return True


def _refuse_both(old: str, now: str, *, both: bool) -> None:
    if both:
        raise RecipeError([f"{old}: got it beside {now}; allowed: {now} alone, its name of today"])


def upgrade_text(text: str) -> tuple[str, list[str]]:
    """The same for the text of a YAML file that holds a mapping; comments and order stay.
    RecipeError where this text has a key in a form that cannot be rewritten in its place."""
    want, lines = upgrade(yaml.safe_load(text))
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    new, newline = text, "\r\n" if "\r\n" in text else "\n"
    for node, word, _ in sorted(_edits(root), key=lambda edit: -edit[0].start_mark.index):
        word = word.replace("\n", newline)
        new = new[: node.start_mark.index] + word + new[node.end_mark.index :]
    try:
        is_right = yaml.safe_load(new) == want
    except yaml.YAMLError:
        is_right = False
    if lines and not is_right:
        forms = "aliases, merged keys, block scalars and JSON"
        raise RecipeError(
            [f"{line}; change it by hand: {forms} are not rewritten" for line in lines]
        )
    return new, lines


def _edits(root: yaml.MappingNode) -> Iterator[tuple[yaml.Node, str, str]]:
    """Scalars to write otherwise, the text in their place, and a line for the user."""
    for old, now in RENAMED.items():
        section, _, key = old.rpartition(".")
        at = _child(root, section)[1] if section else root
        if not isinstance(at, yaml.MappingNode):
            continue
        name = now.rpartition(".")[2]
        key_node, value = _child(at, key)
        if key_node is None:
            continue
        _refuse_both(old, now, both=_child(at, name)[0] is not None)
        yield key_node, name, f"{old} is {now} now"
        if old == "prompt":
            yield from _scale_edits(value)
        if isinstance(value, yaml.ScalarNode) and value.value in _VALUES.get(old, {}):
            changed = _VALUES[old][value.value]
            yield value, "null" if changed is None else str(changed), ""


def _scale_edits(method: yaml.Node | None) -> Iterator[tuple[yaml.Node, str, str]]:
    """What `keep_scale` does, in the text."""
    if not isinstance(method, yaml.MappingNode) or _child(method, "scale")[0] is not None:
        return
    key, kind = _child(method, "kind")
    if key is not None and isinstance(kind, yaml.ScalarNode):
        between = ", " if method.flow_style else "\n" + " " * key.start_mark.column
        yield kind, f"{kind.value}{between}scale: none", KEPT_SCALE


def _child(node: yaml.MappingNode, key: str) -> tuple[yaml.Node | None, yaml.Node | None]:
    return next(((k, v) for k, v in node.value if k.value == key), (None, None))
