"""Reads rows of tensors out of safetensors files, straight into memory that is there already.

Nothing is mapped (a mapped page counts as resident memory) and nothing is read twice. It knows
neither models nor shards; that the files are whole was checked before (models/folder.py).
"""

from collections.abc import Iterator, Sequence, Set
from io import FileIO
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from accept_llm.errors import RecipeError
from accept_llm.models.headers import StoredTensor, read_header

CHUNK = 8 << 20  # bytes on the way where a tensor cannot be filled directly
DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U8": torch.uint8, "BOOL": torch.bool},
}


class Checkpoint:
    """The tensors of some safetensors files; of a name in two of them the later file's counts."""

    def __init__(self, files: Sequence[Path]):
        self._tensors: dict[str, StoredTensor] = {}
        for file in files:
            self._tensors.update(read_header(file))

    @property
    def names(self) -> Set[str]:
        return self._tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def stored(self, name: str) -> StoredTensor:
        return self._tensors[name]

    def read_rows(self, name: str, start: int, *, out: Tensor) -> None:
        """Fills `out` (n, ...) with the rows from `start`; a scalar has one row.

        Other dtypes and devices than the stored ones are reached by a small buffer.
        """
        stored = self._tensors[name]
        rows, *row = stored.shape or (1,)
        assert 0 <= start <= start + len(out) <= rows, (name, start, len(out), rows)
        assert out.shape == (len(out), *row), (name, out.shape, row)
        flat = out.detach().view(-1)  # fails, as it must, where it would be a copy
        self.read_flat(name, start * prod(row), out=flat)

    def read_flat(self, name: str, start: int, *, out: Tensor) -> None:
        """Fills `out` (n,) with the tensor's numbers from `start`, counted through its rows, as
        far as there are any; what is left of `out` is set to 0."""
        stored = self._tensors[name]
        there = min(len(out), max(0, prod(stored.shape) - start))
        out[there:] = 0
        flat = out[:there]
        if not there:
            return
        dtype = _dtype(name, stored)
        direct = out.dtype == dtype and out.device.type == "cpu"
        step = len(flat) if direct else CHUNK // dtype.itemsize
        with stored.file.open("rb", buffering=0) as stream:
            stream.seek(stored.start + start * dtype.itemsize)
            for piece in flat.split(step):
                buffer = piece if direct else torch.empty(len(piece), dtype=dtype)
                _read_into(stream, buffer, file=stored.file)
                if not direct:
                    piece.copy_(buffer)

    def read(self, name: str) -> Tensor:
        """The whole tensor, as it is stored."""
        stored = self._tensors[name]
        out = torch.empty(stored.shape, dtype=_dtype(name, stored))
        self.read_flat(name, 0, out=out.view(-1))
        return out

    def same(self, one: str, other: str) -> bool:
        """Whether two names hold the same numbers in the same dtype and shape."""
        a, b = self._tensors[one], self._tensors[other]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        return all(x == y for x, y in zip(_pieces(one, a), _pieces(other, b), strict=True))


def _dtype(name: str, stored: StoredTensor) -> torch.dtype:
    if stored.dtype not in DTYPES:
        message = f"model: {stored.file}: {name} has dtype {stored.dtype}"
        raise RecipeError([f"{message}; allowed: {', '.join(DTYPES)}"])
    return DTYPES[stored.dtype]


def _read_into(stream: FileIO, out: Tensor, *, file: Path) -> None:
    """One read may give less than is asked for (at most 2 GB on Linux)."""
    left = out.view(torch.uint8).numpy().data
    while left:
        got = stream.readinto(left)
        if not got:
            message = f"model: {file} is cut: it ends {len(left)} bytes before its header says"
            raise RecipeError([f"{message}; copy or download it again"])
        left = left[got:]


def _pieces(name: str, stored: StoredTensor) -> Iterator[bytes]:
    """The bytes of a tensor, some at a time."""
    left = prod(stored.shape) * _dtype(name, stored).itemsize
    with stored.file.open("rb") as stream:
        stream.seek(stored.start)
        for size in [CHUNK] * (left // CHUNK) + [left % CHUNK]:
            yield stream.read(size)
