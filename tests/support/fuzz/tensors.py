"""Changes to safetensors files: their header, their offsets, their numbers."""

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

from support.fuzz.values import damage_file, odd

DTYPES = (
    "F64",
    "F32",
    "F16",
    "BF16",
    "I64",
    "I32",
    "I8",
    "U8",
    "BOOL",
    "F8_E4M3",
    "X9",
    "",
    None,
    3,
)


def read_parts(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and what comes after it."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_parts(path: Path, header: Any, body: bytes, *, length: int | None = None) -> None:
    """A safetensors file, with another length than that of its header if one is given."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)


def damage_tensors(path: Path, draw: Random) -> str:
    """Changes a safetensors file in a way that looks at its structure; says what was done."""
    if draw.random() < 0.15:
        return damage_file(path, draw)
    header, body = read_parts(path)
    names = [name for name in header if name != "__metadata__"]
    if draw.random() < 0.3:
        return f"{path.name}: {_damage_numbers(path, draw, names=names)}"
    if draw.random() < 0.1:
        length = draw.choice([0, 1, 2, 7, 100, 10**8, 10**8 + 1, 2**40, 2**63, 2**64 - 1])
        write_parts(path, header, body, length=length)
        return f"{path.name}: header of {length} bytes"
    name = draw.choice(names)
    done = _change_entry(header, name, draw)
    write_parts(path, header, body)
    return f"{path.name}: {name}: {done}"


def _change_entry(header: dict[str, Any], name: str, draw: Random) -> str:
    entry = header[name]
    start, end = entry["data_offsets"]
    kind = draw.choice(
        ["dtype", "shape", "shape", "offsets", "drop", "rename", "entry", "more", "meta"]
    )
    if kind == "dtype":
        entry["dtype"] = draw.choice(DTYPES)
    elif kind == "shape":
        shape = entry["shape"]
        choices = [
            [*shape, 1],
            shape[::-1],
            shape[1:],
            [],
            [0, *shape],
            [-n for n in shape],
            odd(draw),
        ]
        entry["shape"] = draw.choice(
            [*choices, [2 * n for n in shape], [2**40, 2**40], [1.0], ["2"]]
        )
    elif kind == "offsets":
        choices = [
            [end, start],
            [start, start],
            [0, end],
            [-8, end],
            [start, 2**62],
            [start + 1, end],
        ]
        entry["data_offsets"] = draw.choice([*choices, [start], odd(draw)])
    elif kind == "drop":
        del header[name]
    elif kind == "rename":
        header[draw.choice(["", "x", f"{name}.weight", name.upper(), "é"])] = header.pop(name)
    elif kind == "entry":
        header[name] = odd(draw)
    elif kind == "more":
        header[f"{name}.more"] = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}
    else:
        header["__metadata__"] = odd(draw)
    return f"{kind} {str(entry)[:90]}"


def _damage_numbers(path: Path, draw: Random, *, names: list[str]) -> str:
    """Other numbers, another dtype or another shape in a file that is whole."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors, name = load_file(path), draw.choice(names)
    tensor = tensors[name].clone()
    kind = draw.choice(["nan", "inf", "huge", "cast", "wider", "flat", "none", "more", "less"])
    if kind in ("nan", "inf", "huge") and tensor.numel() and tensor.is_floating_point():
        value = {"nan": torch.nan, "inf": torch.inf, "huge": 3e38}[kind]
        tensor.view(-1)[draw.randrange(tensor.numel())] = value
    elif kind == "cast":
        tensor = tensor.to(draw.choice([torch.float64, torch.bfloat16, torch.int64, torch.bool]))
    elif kind == "wider":
        tensor = torch.cat([tensor, tensor])
    elif kind == "flat":
        tensor = tensor.reshape(-1)
    elif kind == "none":
        tensor = tensor[:0]
    tensors = {**tensors, (f"{name}2" if kind == "more" else name): tensor}
    if kind == "less":
        del tensors[name]
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata={"format": "pt"})
    return f"{name}: {kind}"
