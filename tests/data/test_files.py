"""The kinds of files a user may bring, and what is said about a broken one."""

import gzip
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data_files import WRITERS, problems, reviews, spec_of, write_jsonl

from accept_llm.data.inputs import read_inputs
from accept_llm.data.sources import sample, task_from
from accept_llm.data.splits import load_splits
from accept_llm.errors import RecipeError


@pytest.mark.parametrize("kind", WRITERS)
def test_file_kinds(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"train.{kind}"
    rows = [{"text": "007", "label": "good"}, {"text": 'a "b",\tc\nd é\u2028', "label": "bad"}]
    WRITERS[kind](path, rows)
    splits = load_splits(spec_of(path, validation=str(path), test=str(path)), seed=0)
    assert [(e.parts[0][1], e.label) for e in splits.train] == [
        ("007", 1),
        ('a "b",\tc\nd é', 0),
    ]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json"])
def test_a_gzipped_file_is_read_as_what_is_in_it(tmp_path: Path, kind: str) -> None:
    path, packed = tmp_path / f"train.{kind}", tmp_path / f"train.{kind}.gz"
    WRITERS[kind](path, reviews(7))
    packed.write_bytes(gzip.compress(path.read_bytes()))
    given = spec_of(packed, validation=str(path), test=str(path))
    splits = load_splits(given, seed=0)
    assert [e.parts for e in splits.train] == [e.parts for e in splits.test]
    assert sample(given, 3)[0] == splits.train[:3]


@pytest.mark.parametrize("kind", WRITERS)
def test_accents_in_one_character_or_in_two_are_the_same_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"train.{kind}"
    two = unicodedata.normalize("NFD", "été")
    assert two != "été"
    WRITERS[kind](path, [{two: "chaud", "saison": two}, {two: "froid", "saison": "hiver"}])
    names = {"text": ["été"], "label": "saison", "labels": ["hiver", "été"]}
    for given in names, {**names, "text": [two], "labels": ["hiver", two]}:
        spec = spec_of(path, validation=str(path), test=str(path), **given)
        assert [e.label for e in load_splits(spec, seed=0).train] == [1, 0]


@pytest.mark.parametrize("kind", WRITERS)
def test_predict_reads_a_file_as_training_does(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"new.{kind}"
    rows = [{"text": 'a good, "warm" cat', "label": "good"}, {"text": "bad\tcat", "label": "bad"}]
    WRITERS[kind](path, rows)
    spec = spec_of(path, validation=str(path), test=str(path))
    trained = load_splits(spec, seed=0).train
    found = read_inputs(path, task_from(spec))
    assert [e.parts for e in found] == [e.parts for e in trained]


def test_a_quoted_text_of_several_lines_is_one_row_whatever_characters_break_lines_elsewhere(
    tmp_path: Path,
) -> None:
    path = tmp_path / "train.csv"
    said = "one, two\u2028\x0c\nthree\nfour, five, six"
    WRITERS["csv"](path, [{"text": "a\u2028b, c", "label": "bad"}, {"text": said, "label": "good"}])
    splits = load_splits(spec_of(path, validation=str(path), test=str(path)), seed=0)
    assert [e.parts[0][1] for e in splits.train] == ["a\u2028b, c", said]
    late = b'text,label\na\xe2\x80\xa8b,good\n"fine,1\npoor,0\nfine,1\npoor",0\n'
    path.write_bytes(late)
    assert "(lines 3 to 6 are one row" in problems(spec_of(path))[0]


def test_a_csv_label_may_be_an_index(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("label,note,text\n1,5,n/a\n0,x,\n", encoding="utf-8")
    assert problems(spec_of(path, validation=str(path), test=str(path)))[0] == (
        f"task.train: {path}, row 1 (from 0): text: got no text; allowed: some text"
    )
    two = spec_of(path, text=["text", "note"], validation=str(path), test=str(path))
    train = load_splits(two, seed=0).train
    assert [e.label for e in train] == [1, 0]
    assert train[1].parts == (("text text: ", ""), (" note: ", "x"))


BROKEN: dict[str, tuple[str, bytes, list[str]]] = {
    "suffix": ("train.txt", b"text\n", ["kind '.txt'; allowed: .csv, .tsv, .jsonl, .json, .parqu"]),
    "no suffix": ("train", b"text\n", ["kind 'nothing'; allowed: .csv"]),
    "empty csv": ("train.csv", b"", ["which has no rows; allowed: at least one"]),
    "only a header": ("train.csv", b"text,label\n", ["which has no rows; allowed: at least one"]),
    "ragged csv": (
        "train.csv",
        b"text,label\na,1,2\n",
        ["(line 2 has 3 columns, the first line 2)"],
    ),
    "binary csv": ("train.csv", b"\x00\xff\xfe\n\x80", ["cannot be read as CSV ("]),
    "latin csv": ("train.csv", b"text,label\n\xe9,1\n", ["cannot be read as CSV (", "in UTF-8"]),
    "no header": (
        "train.csv",
        b"fine,1\npoor,0\n",
        ["task.text: got column 'text';", "columns of", ": fine, 1 (its first line must name"],
    ),
    "near miss": (
        "train.csv",
        b"texts,label\nfine,1\n",
        ["task.text: got column 'text', did you mean 'texts'? allowed: the columns of"],
    ),
    "twice": ("train.csv", b"text,text,label\na,b,1\n", ["'text', which stands 2 times in"]),
    "not parquet": ("train.parquet", b"PAR1 no", ["cannot be read as PARQUET ("]),
    "empty jsonl": ("train.jsonl", b"\n", ["which has no rows; allowed: at least one"]),
    "cut jsonl": (
        "train.jsonl",
        b'{"text": "a", "label": 1}\n\n{"text',
        ["cannot be read as JSONL (line 3: "],
    ),
    "no labels": (
        "train.csv",
        b"text\nfine\n",
        ["task.label: got column 'label'", "without labels are answered by `accept-llm predict"],
    ),
    "no objects": ("train.jsonl", b'["a", 1]\n', ["row 0 is not an object of columns and values"]),
    "json text": ("train.json", b'[{"text": "a", ', ["cannot be read as JSON ("]),
    "half a character": (
        "train.jsonl",
        b'{"text": "a\\ud83d", "label": 1}\n',
        ["text: got 'a\\ud83d', with half a character (a lone surrogate) at 1; allowed: text"],
    ),
    "deep jsonl": (
        "train.jsonl",
        b'{"text": "a", "label": 1}\n{"text": ' + b"[" * 9000 + b"]" * 9000 + b"}\n",
        ["cannot be read as JSONL (line 2: it is nested too deeply)"],
    ),
    "deep json": ("train.json", b"[" * 9000 + b"]" * 9000, ["it is nested too deeply"]),
    "nested json": (
        "train.json",
        b'{"version": "1", "data": [{"text": "a", "label": 1}]}',
        ["(it is one object, of version, data; a list of rows, or a row a line, is read)"],
    ),
    "open quote": (
        "train.csv",
        b'text,label\nfine,1\n"poor,0\nfine,1\nan "odd" one,0\n',
        ["(line 5: ',' expected after '\"'; quotation marks stand around a whole text"],
    ),
    "late quote": (
        "train.tsv",
        b'text\tlabel\n"fine\t1\npoor\t0\nfine\t1\npoor"\t0\n',
        ["(lines 2 to 5 are one row, by a quotation mark that is closed late"],
    ),
    "unclosed quote": ("train.csv", b'text,label\n"fine,1\n', ["line 2: unexpected end of data"]),
    "damaged gz": (
        "train.jsonl.gz",
        gzip.compress(b"")[:10] + b"\xff" * 40,
        ["cannot be read as JSONL (it is not gzip, or cut or damaged: Error -3 while"],
    ),
    "no gz": ("train.csv.gz", b"text,label\nfine,1\n", ["it is not gzip, or cut or damaged"]),
    "a column with a long name": (
        "train.csv",
        b"x" * 9000 + b",label\nfine,1\n",
        [f"{'x' * 80}..., label (its first line must name"],
    ),
    "cut gz": ("train.csv.gz", gzip.compress(b"text,label\nfine,1\n")[:-9], ["cannot be read as"]),
    "hidden": (
        "train.jsonl",
        b'{"text": "a", "label": -1}\n',
        ["row 0 (from 0): label: got -1; allowed: bad, good, or 0 to 1 (-1 marks hidden"],
    ),
    "no text": (
        "train.jsonl",
        b'{"text": "a", "label": 1}\n{"text": null, "label": 1}\n{"label": 1}\n',
        ["row 1 (from 0): text: got None; allowed: text", "row 2 (from 0): text: got None"],
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(tmp_path: Path, case: str) -> None:
    name, content, expected = BROKEN[case]
    path = tmp_path / name
    path.write_bytes(content)
    text = "\n".join(problems(spec_of(path)))
    assert str(path) in text
    for part in expected:
        assert part in text, text


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("label", pa.array([2**62], pa.timestamp("us"))),
        ("label", pa.array([2**62], pa.duration("s"))),
        ("text", pa.array([1], pa.timestamp("us", "No/Where"))),
        ("text", pa.array([b"\xff"]).view(pa.string())),
    ],
)
def test_values_of_parquet_that_python_does_not_have(
    tmp_path: Path, name: str, values: pa.Array
) -> None:
    path = tmp_path / "train.parquet"
    table = pa.table({"text": ["fine"], "label": [1]} | {name: values})
    pq.write_table(table, path)
    (said,) = problems(spec_of(path, validation=str(path), test=str(path)))[:1]
    assert f"cannot be read as PARQUET (column '{name}' of type {values.type}: " in said


def test_a_folder_is_no_file_of_rows(tmp_path: Path) -> None:
    for path in (".", "/", str(tmp_path)):
        with pytest.raises(RecipeError, match=r"cannot read|of kind"):
            read_inputs(Path(path), task_from(spec_of(tmp_path / "x.csv")))


def test_gzipped_lines_are_read_to_predict(tmp_path: Path) -> None:
    rows = reviews(3)
    write_jsonl(tmp_path / "new.jsonl", rows)
    packed = tmp_path / "new.jsonl.gz"
    packed.write_bytes(gzip.compress((tmp_path / "new.jsonl").read_bytes()))
    task = task_from(spec_of(packed))
    assert read_inputs(packed, task) == read_inputs(tmp_path / "new.jsonl", task)
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(RecipeError, match=r"--input: got .* as JSONL \(it is not gzip, or cut"):
        read_inputs(packed, task)


def test_problems_of_all_files_at_once(tmp_path: Path) -> None:
    found = problems(spec_of(tmp_path / "no.csv", validation=str(tmp_path), test="gone.parquet"))
    assert found == [
        f"task.train: got {tmp_path}/no.csv, which does not exist; allowed: an existing file",
        f"task.validation: got {tmp_path}, of kind 'nothing'; allowed: .csv, .tsv, .jsonl, "
        ".json, .parquet (all but Parquet also as .gz)",
        "task.test: got gone.parquet, which does not exist; allowed: an existing file",
    ]


def test_five_bad_rows_are_enough(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    write_jsonl(path, [*reviews(3), *[{"text": "a", "label": "goood"}] * 40])
    found = problems(spec_of(path))
    assert len(found) == 6
    assert found[0] == (
        f"task.train: {path}, row 3 (from 0): label: got 'goood', did you mean 'good'? "
        "allowed: bad, good, or 0 to 1"
    )
    assert found[5] == f"task.train: {path}: 40 bad rows of 43, the first 5 are shown"
