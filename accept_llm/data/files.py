"""What is in a user's file: its bytes, gzipped or not, and its text. It knows no rows."""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# A reader gives the file's columns and all its rows, with the wanted columns at least.
Read = tuple[Sequence[str], list[dict[str, Any]]]
GZ = ".gz"
FOREIGN = {
    b"\xff\xfe": "it is UTF-16, not UTF-8",
    b"\xfe\xff": "it is UTF-16, not UTF-8",
    b"PK\x03\x04": "it is a zip archive, as a workbook (.xlsx) is too, and no text",
    b"\x1f\x8b": "it is gzip, and its name does not end in .gz",
    b"\xfd7zXZ\x00": "it is xz, and no text",
    b"\x28\xb5\x2f\xfd": "it is zstd, and no text",
    b"PAR1": "it is Parquet, and no text",
}
"""What other files than texts begin with, and what is said of them."""


def read_bytes(path: Path) -> bytes:
    """What is in a file, or in a gzipped one; ValueError where that is cut or damaged."""
    data = path.read_bytes()
    if path.suffix.lower() != GZ:
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"it is not gzip, or cut or damaged: {error}") from None


def decode(data: bytes) -> str:
    """The text of UTF-8, with or without a mark at its beginning; ValueError says what else it is,
    where that shows."""
    for start, what in FOREIGN.items():
        if data.startswith(start):
            raise ValueError(what)
    return data.decode("utf-8-sig")


def read_text(path: Path) -> str:
    """The text of a file; ValueError as in `read_bytes` and `decode`."""
    return decode(read_bytes(path))
