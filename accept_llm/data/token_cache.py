"""Tokenised rows on disk, so that a long data set is tokenised once. It knows no tokenizer: a key
says what the rows were made from."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from accept_llm.storage import atomic_file, say
from accept_llm.tasks.base import Example

FORMAT = 3
LEAST = 2000  # examples that are worth a file
Rows = list[tuple[list[int], bool]]
"""Token ids of each example, and whether truncation has cut its answer away."""


def key_of(settings: Sequence[Any], examples: Sequence[Example]) -> str:
    """SHA-256 of everything that the tokens depend on."""
    digest = hashlib.sha256(json.dumps([FORMAT, *settings]).encode())
    for example in examples:
        digest.update(json.dumps([example.id, example.parts, example.label]).encode())
    return digest.hexdigest()


def cached_rows(
    folder: Path, settings: Sequence[Any], *, examples: Sequence[Example], make: Callable[[], Rows]
) -> Rows:
    """The rows of an earlier run with the same settings and examples, else those of `make`."""
    if len(examples) < LEAST:
        return make()
    path = folder / f"{key_of(settings, examples)}.npz"
    rows = _read(path, len(examples))
    if rows is None:
        rows = make()
        try:
            _write(path, rows)
        except OSError as error:
            say(f"tokens are not kept for the next run ({path}: {error.strerror or error})")
    return rows


def _read(path: Path, count: int) -> Rows | None:
    try:
        with path.open("rb") as file, np.load(file) as data:
            parts = np.split(data["tokens"], np.cumsum(data["lengths"])[:-1])
            rows = [(p.tolist(), bool(x)) for p, x in zip(parts, data["lost"], strict=True)]
    except Exception:  # not there, or damaged in any way: made again
        return None
    return rows if len(rows) == count else None


def _write(path: Path, rows: Rows) -> None:
    """Another process, of another machine too, may read or write the same file."""
    tokens = np.array([t for row, _ in rows for t in row], dtype=np.int32)
    lengths = np.array([len(row) for row, _ in rows], dtype=np.int32)
    with atomic_file(path) as file:
        np.savez(file, tokens=tokens, lengths=lengths, lost=np.array([x for _, x in rows]))
