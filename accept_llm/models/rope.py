"""Rotary positions that depend on how long a text is: `longrope` and `dynamic`.

Up to some length each text is turned by the same frequencies. Beyond it transformers takes others
for all that is in one call, so that a text in a batch, or behind a prompt that was computed before,
is not the text alone; such lengths are refused.
"""

from collections.abc import Iterator, Mapping
from typing import Any

OLD = "original_max_position_embeddings"
LONGEST = "max_position_embeddings"
_DEFAULTS = {"phi3": 4096, "phi4_multimodal": 4096}  # where transformers' own config has a number
_LONG = ("longrope", "su")


def steady_positions(config: Mapping[str, Any]) -> tuple[int | None, str]:
    """How many positions are turned the same way in each text, and which rope_type says so; (None,
    "") where no length matters. ValueError where the config has no such number."""
    least, which = None, ""
    for rope in _ropes(config):
        kind = rope.get("rope_type") or rope.get("type")
        if kind in _LONG or (kind == "yarn" and config.get("model_type") == "phi3"):
            found = [config.get(OLD, _DEFAULTS.get(str(config.get("model_type")))), rope.get(OLD)]
        elif isinstance(kind, str) and "dynamic" in kind:
            found = [config.get(LONGEST)]
        else:
            continue
        numbers = list(filter(_is_size, found)) or list(filter(_is_size, [config.get(LONGEST)]))
        if not numbers:
            raise ValueError(f"rope_type {kind!r} without a whole number above 0 for {LONGEST}")
        if least is None or min(numbers) < least:
            least, which = min(numbers), str(kind)
    return least, which


def _ropes(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The settings of rotary positions: one for all layers, or one for each type of layer."""
    settings = config.get("rope_scaling") or config.get("rope_parameters")
    if not isinstance(settings, Mapping):
        return
    yield settings
    yield from (nested for nested in settings.values() if isinstance(nested, Mapping))


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0
