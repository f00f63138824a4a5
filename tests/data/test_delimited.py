"""Which texts of several lines are read from CSV and TSV, and which are rows that a quotation mark
has made one."""

from pathlib import Path

import pytest
from support.data_files import WRITERS, problems, spec_of

from accept_llm.data.inputs import read_inputs
from accept_llm.data.sources import task_from
from accept_llm.data.splits import load_splits

LATE = "by a quotation mark that is closed late"
MERGED = {
    "two rows": (
        ".csv",
        'text,label\n"one, sat,down\ntwo, sat",up\nthree,down\n',
        f"(lines 2 to 3 are one row, {LATE}: line 2 ends as a row does, with ',down'; a text that",
    ),
    "a blank line": (
        ".csv",
        'text,label\nzero,up\n"one,down\n\ntwo,up\nthree,up\nfour",up\nfive,down\n',
        "(lines 3 to 7 are one row, .* though each looks like one",
    ),
    "a comma too many": (
        ".csv",
        'text,label\nzero,up\n"one\ntwo, sat,up\nthree,up\nfour",up\nfive,down\n',
        "(lines 3 to 6 are one row, .*: line 4 ends as a row does, with ',up'",
    ),
    "the label in the middle": (
        ".csv",
        'text,label,more\n"one,down,a\ntwo",up,b\nthree,down,c\n',
        "(lines 2 to 3 are one row, .*: line 2 ends as a row does, with ',down,a'",
    ),
    "the label first": (
        ".csv",
        'label,text\r\ndown,"one sat\r\nup,two sat"\r\nup,three\r\ndown,four\r\n',
        "(lines 2 to 3 are one row, .*: line 3 begins as a row does, with 'up,'",
    ),
    "after a text of two lines": (
        ".tsv",
        'more\ttext\tlabel\n"a\nb"\t"one\tup\nc\ttwo"\tdown\nd\tthree\tup\n',
        "(lines 2 to 4 are one row, .*: line 3 ends as a row does, with '\\tup'",
    ),
    "labels that stand nowhere else": (
        ".csv",
        'text,label\n"one,a\n\ntwo,b\nthree",c\n',
        "(lines 2 to 5 are one row, .* though each looks like one",
    ),
}


@pytest.mark.parametrize(("suffix", "content", "said"), MERGED.values(), ids=MERGED)
def test_rows_that_a_quotation_mark_makes_one(
    tmp_path: Path, suffix: str, content: str, said: str
) -> None:
    path = tmp_path / f"train{suffix}"
    path.write_bytes(content.encode())
    (found, *_) = problems(spec_of(path, labels=["up", "down"]))
    before, _, after = said.partition(".*")
    assert before in found
    assert after in found


TEXTS = {
    "a letter": "Dear Sir,\nThanks,\nBob",
    "three lines": "good, or bad\nbad, or good\ngood",
    "numbers": "it costs 2,1\nor 3,0\nor 1,000",
    "a list": "0, none\n1, one\n0,5 litres",
    "an empty line": "a\n\nb",
    "quotation marks": 'he said "bad"\nand "good", twice\n',
    "the end of a row": "all\nis,1",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("names", [["text", "label"], ["label", "text"]])
def test_a_text_of_several_lines_is_read_and_told(
    tmp_path: Path, text: str, names: list[str]
) -> None:
    path = tmp_path / "train.csv"
    rows = [{"text": x, "label": i % 2} for i, x in enumerate(["a, b", text, "c", "d"])]
    WRITERS["csv"](path, [{name: row[name] for name in names} for row in rows])
    spec = spec_of(path, validation=str(path), test=str(path))
    splits = load_splits(spec, seed=0)
    assert splits.train[1].parts[0][1] == text.strip()
    note = f": {path}: 1 of 4 rows have line breaks inside a text"
    assert splits.notes == [f"task.{s}{note}" for s in ("train", "validation", "test")]
    told: list[str] = []
    found = read_inputs(path, task_from(spec), notify=told.append)
    assert [e.parts for e in found] == [e.parts for e in splits.train]
    assert told == [f"--input{note}"]


def test_one_column_has_no_sign_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text('text\n"a\nb\nc"\n\nd\n')
    told: list[str] = []
    found = read_inputs(path, task_from(spec_of(path)), notify=told.append)
    assert [e.parts[0][1] for e in found] == ["a\nb\nc", "d"]
    assert told == [f"--input: {path}: 1 of 2 rows have line breaks inside a text"]


DELIMITED = {
    "semicolons": (".csv", "text;label\na, b;1\n", "'text;label', where a semicolon (';') is betw"),
    "quoted": (".csv", '"text";"label"\n"a";1\n', "where a semicolon (';') is between the columns"),
    "a line of Excel": (
        ".csv",
        "sep=;\ntext;label\n",
        "'sep=;', where a semicolon (';') is between",
    ),
    "tabs": (
        ".csv",
        "text\tlabel\na\t1\n",
        "where a tab ('\\t') is between the columns; allowed: ",
    ),
    "commas": (
        ".tsv",
        "text,label\na,1\n",
        "where a comma (',') is between the columns; allowed: ",
    ),
}


@pytest.mark.parametrize(("suffix", "content", "said"), DELIMITED.values(), ids=DELIMITED)
def test_another_delimiter_is_named(tmp_path: Path, suffix: str, content: str, said: str) -> None:
    path = tmp_path / f"train{suffix}"
    path.write_text(content)
    (found, *_) = problems(spec_of(path))
    assert said in found
    assert "allowed: a comma (',') in .csv, a tab ('\\t') in .tsv" in found


def test_one_column_whose_name_has_a_semicolon(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text('"a;b"\nfine\n')
    assert len(read_inputs(path, task_from(spec_of(path, text=["a;b"])))) == 1
