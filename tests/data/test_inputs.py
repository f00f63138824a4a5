"""What `predict --input` reads of which file, beside what training reads (test_files.py)."""

import gzip
import io
import json
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.data_files import WRITERS, problems, spec_of

from accept_llm.data.inputs import make_inputs, read_inputs
from accept_llm.data.sources import task_from
from accept_llm.errors import RecipeError


def refusal(path: Path | None, **names: list[str]) -> str:
    """What is said of a file to predict."""
    with pytest.raises(RecipeError) as caught:
        read_inputs(path, task_from(spec_of(Path("train.csv"), **names)))
    return str(caught.value)


@pytest.mark.parametrize("kind", WRITERS)
def test_ids_are_kept_of_every_kind(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"new.{kind}"
    rows = [{"id": "a", "text": "x"}, {"id": "7", "text": "y"}, {"id": None, "text": "z"}]
    WRITERS[kind](path, rows)
    task = task_from(spec_of(path))
    assert [e.id for e in read_inputs(path, task)] == ["a", "7", "3"]
    WRITERS[kind](path, [{"text": row["text"]} for row in rows])
    assert [e.id for e in read_inputs(path, task)] == ["1", "2", "3"]


@pytest.mark.parametrize("line", ['"the cat sat"', '["a", "b"]', "the cat sat", "3"])
@pytest.mark.parametrize("end", ["", ".gz"])
def test_a_line_of_jsonl_is_what_it_is_to_training(tmp_path: Path, line: str, end: str) -> None:
    path = tmp_path / f"new.jsonl{end}"
    content = f'{{"text": "a", "label": 1}}\n{line}\n'.encode()
    path.write_bytes(gzip.compress(content) if end else content)
    trained = problems(spec_of(path))[0]
    assert "cannot be read as JSONL (" in trained
    assert refusal(path) == trained.replace("task.train: ", "--input: ")


def test_standard_input_has_lines_of_text_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    data = '"the cat sat"\n[1]\n{"text": "a", "id": "b"}\n\u200b\n'.encode()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    found = read_inputs(None, task_from(spec_of(Path("train.csv"))))
    assert [e.parts[0][1] for e in found] == ['"the cat sat"', "[1]", "a"]
    assert [e.id for e in found] == ["1", "2", "b"]


UNKNOWN = (
    *(
        "csv.xz",
        "csv.bz2",
        "csv.zst",
        "zip",
        "csv.zip",
        "7z",
        "tar",
        "tar.gz",
        "xlsx",
        "xls",
        "ods",
    ),
    *("feather", "arrow", "pkl", "parquet.gz", "XLSX", "ndjson", "docx", "pdf"),
)


@pytest.mark.parametrize("ending", UNKNOWN)
def test_a_kind_that_is_not_known_is_no_text(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"new.{ending}"
    path.write_text("text,label\na,1\n")
    said = refusal(path)
    assert f"--input: got {path}, of kind '." in said
    assert "allowed: .csv, .tsv, .jsonl, .json, .parquet, or for lines of text .txt" in said
    assert f"task.train: got {path}, of kind '." in problems(spec_of(path))[0]


@pytest.mark.parametrize("name", ["new.txt", "new.text", "new.md", "new", "NEW.TXT", "new.txt.gz"])
def test_lines_of_text(tmp_path: Path, name: str) -> None:
    path, content = tmp_path / name, b'a, b\n\n"c"\n'
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    found = read_inputs(path, task_from(spec_of(path)))
    assert [(e.id, e.parts[0][1]) for e in found] == [("1", "a, b"), ("3", '"c"')]


FOREIGN = {
    "zip": (b"PK\x03\x04\x14\0", "it is a zip archive, as a workbook (.xlsx) is too"),
    "UTF-16": ("text,label\né,1\n".encode("utf-16"), "it is UTF-16, not UTF-8"),
    "big UTF-16": (b"\xfe\xff" + "text".encode("utf-16-be"), "it is UTF-16, not UTF-8"),
    "gzip": (gzip.compress(b"text,label\n"), "it is gzip, and its name does not end in .gz"),
    "xz": (b"\xfd7zXZ\0\0", "it is xz, and no text"),
    "Parquet": (b"PAR1\x15\x04", "it is Parquet, and no text"),
}


@pytest.mark.parametrize(("content", "said"), FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("ending", ["csv", "jsonl", "json", "txt"])
def test_another_file_under_the_name_of_a_text(
    tmp_path: Path, content: bytes, said: str, ending: str
) -> None:
    path = tmp_path / f"new.{ending}"
    path.write_bytes(content)
    found = [refusal(path)]
    if ending != "txt":
        found += problems(spec_of(path))[:1]
    for line in found:
        assert f"({said}" in line
        assert "UTF-8" in line.split("allowed: ")[1]


def test_standard_input_in_utf_16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO("a".encode("utf-16"))))
    assert "--input: cannot read standard input (it is UTF-16, not UTF-8)" in refusal(None)


# --- keys and texts ---------------------------------------------------------------------

TWO = unicodedata.normalize("NFD", "é")
TWICE = {
    "jsonl": ('{"text": "a"}\n{"text": "LOST", "text": "kept"}\n', "line 2: key 'text' stands 2"),
    "json": ('[{"text": "a"}, {"text": "LOST", "text": "kept"}]', "row 1 (from 0): key 'text' sta"),
    "json lines": ('{"text": "a"}\n{"text": "L", "text": "k"}\n', "line 2: key 'text' stands 2"),
    "json object": ('{"text": "LOST",\n"text": "kept"}', "(key 'text' stands 2 times in one obje"),
    "json below": ('[{"text": "a", "b": [{"c": 1, "c": 2}]}]', "row 0 (from 0): key 'c' stands 2"),
    "json accents": (f'[{{"é": "a", "{TWO}": "b"}}]', "row 0 (from 0): key 'é' stands 2 times in"),
    "jsonl accents": (f'{{"é": "a", "{TWO}": "b"}}', "line 1: key 'é' stands 2 times in one obj"),
    "csv accents": (f"é,{TWO},label\na,b,1\n", "column 'é', which stands 2 times in"),
    "txt": ('{"text": "LOST", "text": "kept"}', 'input line 1: got \'{"text": "LOST'),
}


@pytest.mark.parametrize("case", TWICE)
def test_a_key_that_stands_twice(tmp_path: Path, case: str) -> None:
    content, said = TWICE[case]
    path = tmp_path / f"new.{case.split()[0]}"
    path.write_text(content)
    names = ["é"] if "accents" in case else ["text"]
    assert said in refusal(path, text=names)
    if case != "txt":
        assert said in problems(spec_of(path, text=names))[0]


def test_columns_of_parquet_that_stand_twice(tmp_path: Path) -> None:
    path = tmp_path / "new.parquet"
    WRITERS["parquet"](path, [{"é": "a", TWO: "b", "label": 1}])
    assert "column 'é', which stands 2 times in" in refusal(path, text=["é"])
    assert "column 'é', which stands 2 times in" in problems(spec_of(path, text=["é"]))[0]


def test_a_mapping_whose_keys_are_the_same() -> None:
    task = task_from(spec_of(Path("train.csv"), text=["é"]))
    with pytest.raises(RecipeError, match="input line 1: key 'é' stands 2 times in one object"):
        make_inputs([{"é": "a", TWO: "b"}], task)


@pytest.mark.parametrize("text", ["", " \t", "\u200b", " \ufeff\u200b ", "\u2060\u200d"])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_text_that_nobody_sees_is_none(tmp_path: Path, kind: str, text: str) -> None:
    path = tmp_path / f"new.{kind}"
    WRITERS[kind](path, [{"text": "a\u200bb", "label": 1}, {"text": text, "label": 1}])
    said = "text: got no text; allowed: some text"
    assert refusal(path) == f"input row 2: {said}"
    assert problems(spec_of(path))[0] == f"task.train: {path}, row 1 (from 0): {said}"
    path = tmp_path / "new.txt"
    path.write_text(json.dumps({"text": "a"}) + f"\n{text}\na\u200bb\n")
    found = read_inputs(path, task_from(spec_of(path)))
    assert [e.parts[0][1] for e in found] == ["a", "a\u200bb"]
