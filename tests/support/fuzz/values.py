"""Values that a field may not expect, and changes to trees of JSON values at any key path."""

import copy
import json
import math
from pathlib import Path
from random import Random
from typing import Any

DEEP: list[Any] = []
for _ in range(60):
    DEEP = [DEEP]

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 0.5, -0.5, 1e-300, 1e308, 2.0, 10**30),
    *(2**15, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, -(2**63), 2**64),
    *(math.nan, math.inf, -math.inf, "", " ", "0", "1", "-1", "1e3", "nan", "null", "yes", "true"),
    *(
        "x" * 5000,
        "é",
        "e\u0301",
        "\u202eabc",
        "\u2028",
        "\0",
        "\x1b[31m",
        "a/b",
        "..",
        "~",
        "%s{}",
    ),
    *("😀", "\ud800", "a: b", "'", '"', "#", "[1", "{a: 1}", "!!python/name:os.system", "-", "*a"),
    *([], {}, [[]], [None], [1, 2], ["a", "a"], [0.5, "x"], {"kind": None}, {"kind": []}),
    *({"a": {"b": [1]}}, {"": 1}, DEEP, ["x"] * 300),
)


def odd(draw: Random) -> Any:
    """One of the values that a field may not expect."""
    return copy.deepcopy(draw.choice(ODD))


def paths_of(data: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every key path of a tree."""
    items = data.items() if isinstance(data, dict) else enumerate(data)
    if not isinstance(data, dict | list):
        return []
    found = []
    for key, value in items:
        found += [(*above, key), *paths_of(value, (*above, key))]
    return found


def _pick(data: Any, draw: Random) -> tuple[Any, Any]:
    """A container and one of its keys, every depth as likely as the others."""
    while True:
        keys = list(data) if isinstance(data, dict) else list(range(len(data)))
        key = draw.choice(keys)
        below = data[key]
        if not isinstance(below, dict | list) or not below or draw.random() < 0.4:
            return data, key
        data = below


def change_tree(data: Any, draw: Random) -> str:
    """Changes one place of a tree that is not empty, in place; says what was done."""
    holder, key = _pick(data, draw)
    old = holder[key]
    kind = draw.choice(
        ["odd"] * 6 + ["drop"] * 3 + ["number"] * 3 + ["add", "list", "text", "swap"]
    )
    if kind == "drop":
        del holder[key]
        return f"drop {key!r}"
    if kind == "add" and isinstance(holder, dict):
        holder[draw.choice(["unknown", "", "kind", "é", "0"])] = odd(draw)
        return f"add beside {key!r}"
    if kind == "number" and isinstance(old, int | float):
        holder[key] = draw.choice(
            [old * 2, old + 1, -old, old - 1, old * 1000, float(old), str(old)]
        )
    elif kind == "list":
        holder[key] = [old]
    elif kind == "text":
        holder[key] = json.dumps(old)
    elif kind == "swap":
        other, place = _pick(data, draw)
        holder[key] = copy.deepcopy(other[place])
    else:
        holder[key] = odd(draw)
    return f"{key!r}: {str(old)[:40]!a} -> {str(holder[key])[:40]!a}"


def damage_bytes(content: bytes, draw: Random) -> tuple[bytes, str]:
    """The content of a file, cut, overwritten, doubled or replaced by another thing."""
    place = draw.randrange(max(1, len(content)))
    kind = draw.choice(["cut", "flip", "hole", "twice", "front", "other"])
    if kind == "cut":
        return content[:place], f"cut at {place}"
    if kind == "flip":
        changed = bytearray(content)
        for _ in range(draw.choice([1, 1, 3, 20])):
            if changed:
                changed[draw.randrange(len(changed))] = draw.randrange(256)
        return bytes(changed), "some bytes are others"
    if kind == "hole":
        return content[:place] + content[place + draw.choice([1, 7, 100]) :], f"a hole at {place}"
    if kind == "twice":
        return content + content, "twice"
    if kind == "front":
        return draw.choice([b"\xef\xbb\xbf", b"\n", b"\0", b"\xff\xfe", b"#"]) + content, "a start"
    other = [
        b"",
        b"\n",
        b"null",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"a":' * 5000,
        b"1" * 5000,
        b"\0" * 99,
    ]
    chosen = draw.choice(other)
    return chosen, f"replaced by {chosen[:9]!r}"


def damage_json(path: Path, draw: Random) -> str:
    """Changes a JSON file in one to three places of its tree, or as bytes; says what was done."""
    if draw.random() < 0.12:
        return damage_file(path, draw)
    data = json.loads(path.read_text(encoding="utf-8"))
    done = [change_tree(data, draw) for _ in range(draw.choice([1, 1, 1, 2, 3])) if data]
    path.write_text(json.dumps(data))
    return f"{path.name}: {'; '.join(done)}"


def damage_file(path: Path, draw: Random) -> str:
    """Damages a file of any kind, or puts another thing in its place."""
    kind = draw.random()
    content = path.read_bytes()
    if kind < 0.7:
        content, done = damage_bytes(content, draw)
        path.write_bytes(content)
        return f"{path.name}: {done}"
    path.unlink()
    if kind < 0.8:
        path.mkdir()
    elif kind < 0.9:
        path.symlink_to(path.name)
    return f"{path.name}: gone, a folder or a link to itself"
