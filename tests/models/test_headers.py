"""Headers of safetensors files, each wrong in one thing."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from accept_llm.models.headers import read_header, read_shapes

Header = dict[str, Any]


def written(path: Path, header: Any, *, body: int = 40) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(body))
    return path


def good() -> Header:
    return {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [8], "data_offsets": [24, 40]},
    }


def changed(name: str, **fields: Any) -> Callable[[Header], Header]:
    return lambda header: {**header, name: {**header[name], **fields}}


WRONG: dict[str, tuple[Callable[[Header], Any], str]] = {
    "an unknown type": (changed("a", dtype="X9"), "'a' with dtype 'X9'; allowed: F64, F32"),
    "no type": (changed("a", dtype=None), "'a' with dtype null; allowed: "),
    "a wider type": (changed("b", dtype="F32"), "'b' with 16 bytes for F32 [8], which has 32"),
    "a shape of fractions": (changed("a", shape=[6.0]), "'a' with shape [6.0]; allowed: whole"),
    "a shape of texts": (changed("a", shape=["6"]), "'a' with shape ['6']; allowed: whole"),
    "a shape below 0": (changed("a", shape=[-2, -3]), "'a' with shape [-2, -3]; allowed: whole"),
    "a shape of truth": (changed("a", shape=[True, 6]), "'a' with shape [True, 6]; allowed"),
    "too large a shape": (changed("a", shape=[2**62, 9]), "'a' with 24 bytes for F32"),
    "offsets below 0": (changed("a", data_offsets=[-8, 24]), "'a' with data_offsets [-8, 24]"),
    "offsets backwards": (changed("a", data_offsets=[24, 0]), "'a' with data_offsets [24, 0]"),
    "one offset": (changed("a", data_offsets=[24]), "'a' with data_offsets [24]; allowed"),
    "infinite offsets": (
        lambda header: json.dumps(header).replace("24", "1e400").encode(),
        "'a' with data_offsets [0, inf]",
    ),
    "an overlap": (changed("b", data_offsets=[16, 32]), "'b' at 16, not at 24"),
    "a hole": (lambda header: {"b": header["b"]}, "'b' at 24, not at 0"),
    "no mapping": (lambda header: {"a": [1]}, "'a' with [1]; allowed: dtype, shape"),
    "other notes": (lambda header: {**header, "__metadata__": "x"}, "__metadata__ 'x'; allowed"),
    "notes of numbers": (lambda h: {**h, "__metadata__": {"n": 1}}, "__metadata__ {'n': 1}"),
    "no numbers": (lambda header: b'{"a": NaN}', "its header is not safetensors JSON"),
    "brackets": (lambda header: b"[" * 100_000, "its header is not safetensors JSON"),
    "not UTF-8": (lambda header: b'{"\xff": 1}', "its header is not safetensors JSON"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_header_says_that_cannot_be(tmp_path: Path, case: str) -> None:
    change, wanted = WRONG[case]
    path = written(tmp_path / "m.safetensors", change(good()))
    with pytest.raises(ValueError) as caught:
        read_header(path)
    assert f"{path} is cut or damaged: {path.stat().st_size} bytes, " in str(caught.value)
    assert wanted in str(caught.value)


def test_a_good_header(tmp_path: Path) -> None:
    found = read_header(written(tmp_path / "m.safetensors", good()))
    assert [(x.dtype, x.shape) for x in found.values()] == [("F32", (2, 3)), ("BF16", (8,))]
    assert found["b"].start == found["a"].start + 24


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    tensors = {
        "scalar": np.zeros((), np.float64),
        "nothing": np.zeros((0, 3), np.int8),
        "mask": np.zeros((2, 2), np.bool_),
        "é.weight": np.zeros((3, 1), np.float16),
    }
    save_file(tensors, tmp_path / "m.safetensors")
    found = read_shapes(tmp_path / "m.safetensors")
    assert found == {name: list(tensor.shape) for name, tensor in tensors.items()}
