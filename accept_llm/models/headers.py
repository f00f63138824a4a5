"""The header of a safetensors file, read strictly: the place, type and shape of each tensor must be
those of bytes that are there. No number of a tensor is read, and no torch is needed.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

from accept_llm.errors import short

_LONGEST = 100_000_000  # the format's own limit
_AGAIN = "copy or download it again"
METADATA = "__metadata__"
# The types of the format, and the bits of a number.
BITS = {
    **{"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8},
    **{"I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8},
    **{"BOOL": 8, "C64": 64, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},
}
FLOATS = ("F32", "F16", "BF16", "F64")  # that a weight may be stored in


@dataclass(frozen=True)
class StoredTensor:
    """The place of a tensor: its file, and where in it the tensor begins."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    """Of its first byte in the file."""


def read_shapes(file: Path) -> dict[str, list[int]]:
    """Tensor name -> shape; ValueError as in `read_header`."""
    return {name: list(stored.shape) for name, stored in read_header(file).items()}


def read_header(file: Path) -> dict[str, StoredTensor]:
    """8 bytes of length, then JSON; the offsets of the tensors count from its end. ValueError when
    the file is cut, garbage, or says of itself what cannot be."""
    size = file.stat().st_size
    damaged = f"{file} is cut or damaged: {size} bytes"
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= _LONGEST:
            raise ValueError(f"{damaged}, no safetensors header; {_AGAIN}")
        if 8 + length > size:
            raise ValueError(f"{damaged}, at least {8 + length} needed; {_AGAIN}")
        text = stream.read(length)
    try:
        header = json.loads(text, parse_constant=_no_constant)
        problem = next(_problems(header), None)
    except (RecursionError, ValueError):
        header, problem = {}, "its header is not safetensors JSON"
    if problem:
        raise ValueError(f"{damaged}, {problem}; {_AGAIN}")
    entries = {name: entry for name, entry in header.items() if name != METADATA}
    end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if 8 + length + end != size:
        raise ValueError(f"{damaged}, {8 + length + end} needed; {_AGAIN}")
    return {
        name: StoredTensor(
            file, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0]
        )
        for name, entry in entries.items()
    }


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _problems(header: Any) -> Iterator[str]:
    """What a header says that cannot be."""
    if not isinstance(header, dict):
        yield "its header is not safetensors JSON"
        return
    notes = header.get(METADATA, {})
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        yield f"its header has {METADATA} {short(notes)}; allowed: texts by name"
    entries = {name: entry for name, entry in header.items() if name != METADATA}
    for name, entry in entries.items():
        problem = _entry_problem(entry)
        if problem:
            yield f"its header has {short(name)} with {problem}"
            return
    last = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        start, end = entry["data_offsets"]
        if start != last:
            where = f"at {start}, not at {last}, the end of the one before"
            yield f"its header has {short(name)} {where}"
            return
        last = end


def _entry_problem(entry: Any) -> str | None:
    """What is wrong with a tensor's entry by itself."""
    if not isinstance(entry, Mapping):
        return f"{short(entry)}; allowed: dtype, shape and data_offsets"
    dtype, shape, offsets = map(entry.get, ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in BITS:
        return f"dtype {short(dtype)}; allowed: {', '.join(BITS)}"
    if not _are_sizes(shape):
        return f"shape {short(shape)}; allowed: whole numbers from 0"
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return f"data_offsets {short(offsets)}; allowed: where it begins and ends"
    needed, there = prod(shape) * BITS[dtype], 8 * (offsets[1] - offsets[0])
    if needed != there:
        return f"{there // 8} bytes for {dtype} {short(shape)}, which has {-(-needed // 8)}"
    return None


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)
