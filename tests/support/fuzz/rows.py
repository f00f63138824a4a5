"""Files of rows: well-formed ones in many forms, whose rows can be counted without our readers, and
broken ones."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from support.fuzz.values import change_tree, damage_bytes, odd

Rows = list[dict[str, Any]]
WORDS = "lovely fast steady warm cold late wrong rain the was not".split()
TEXTS = (
    *(
        'say "no" twice',
        "a, b; c\td",
        "two\nlines",
        "\u2028line",
        "é e\u0301",
        "😀",
        "'",
        '"',
        "a" * 20_000,
    ),
    *(
        "nul\0inside",
        "\\",
        "</s><s>",
        "\ufeffmark",
        "\r",
        "0",
        "null",
        "NaN",
        "\x1b[0m",
        "x\r\ny",
        "-",
        "#",
    ),
)
ENDINGS = ("\n", "\r\n", "\r")


def some_rows(draw: Random, count: int) -> Rows:
    """Rows with a text and a label, of which some texts are odd."""
    rows = []
    for number in range(count):
        text = " ".join(draw.choices(WORDS, k=draw.randint(1, 8)))
        if draw.random() < 0.15:
            text += draw.choice(TEXTS)
        rows.append({"review": text, "label": number % 2})
    return rows


def write_rows(path: Path, draw: Random, *, count: int) -> tuple[int | None, str]:
    """Writes a file of rows of the kind that its name says, broken in half of all cases. Gives
    how many rows it must have if it is read at all, or None where nobody can know."""
    gz = path.suffix == ".gz"
    kind = (path.with_suffix("") if gz else path).suffix
    rows = some_rows(draw, count)
    content, known, done = WRITERS[kind](rows, draw)
    if draw.random() < 0.2:
        content, damage = damage_bytes(content, draw)
        known, done = None, f"{done}; {damage}"
    if gz:
        content = gzip.compress(content)
        if draw.random() < 0.4:
            content, damage = damage_bytes(content, draw)
            known, done = None, f"{done}; gzip: {damage}"
    path.write_bytes(content)
    return known, f"{path.name}: {done}"


# --- CSV and TSV ------------------------------------------------------------------------


def _table(rows: Rows, draw: Random, *, delimiter: str) -> tuple[bytes, int | None, str]:
    end, quoting = draw.choice(ENDINGS), draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    text = io.StringIO(newline="")
    names = draw.choice([["review", "label"], ["label", "review"], ["id", "review", "label"]])
    writer = csv.DictWriter(
        text, names, delimiter=delimiter, quoting=quoting, lineterminator=end, extrasaction="ignore"
    )
    writer.writeheader()
    writer.writerows(rows)
    lines = text.getvalue().split(end)[:-1]
    content, known, done = text.getvalue(), len(rows), f"csv {end!r} {quoting}"
    if draw.random() < 0.5:
        content, keeps, change = _change_table(lines, draw, end=end, delimiter=delimiter)
        known, done = (known if keeps else None), f"{done}; {change}"
    encoding = draw.choice(["utf-8"] * 6 + ["utf-8-sig"] * 3 + ["latin-1", "utf-16"])
    data = content.encode(encoding, "replace" if encoding == "latin-1" else "surrogatepass")
    return data, known, f"{done}; {encoding}"


def _change_table(
    lines: list[str], draw: Random, *, end: str, delimiter: str
) -> tuple[str, bool, str]:
    """The text with one change, and whether its rows are as many as before if it is read."""
    place = draw.randrange(1, len(lines))
    kind = draw.choice("blank open extra short double header wrong mixed last number quote".split())
    keeps = kind in ("blank", "open", "extra", "short", "mixed", "last", "quote")
    if kind == "blank":
        lines.insert(place, "")
    elif kind == "open":  # in front of a field; that no other quotation mark is there is known
        keeps = '"' not in "".join(lines)
        lines[place] = '"' + lines[place]
    elif kind == "quote":
        keeps = '"' not in "".join(lines)
        lines[place] = lines[place][:2] + '"' + lines[place][2:]
    elif kind == "extra":
        lines[place] += delimiter + "x"
    elif kind == "short":
        lines[place] = lines[place].split(delimiter)[0]
        keeps = '"' not in "".join(lines)
    elif kind == "double":
        lines[0] += delimiter + "review"
    elif kind == "header":
        lines = lines[:1]
    elif kind == "wrong":
        lines = [line.replace(delimiter, ";") for line in lines]
    elif kind == "number":
        lines[0] = lines[0].replace("label", draw.choice(["Label", "", "lable", "label ", "1"]))
    text = end.join(lines)
    if kind == "mixed":
        text = "".join(line + draw.choice(ENDINGS) for line in lines)
    return text + ("" if kind == "last" else end), keeps, kind


# --- JSON -------------------------------------------------------------------------------


def _changed(rows: Rows, draw: Random) -> str:
    """Changes the tree of some rows in half of all cases; the rows stay as many."""
    if draw.random() < 0.5:
        return "as they are"
    done = []
    for _ in range(draw.choice([1, 1, 2])):
        done.append(change_tree(draw.choice(rows), draw))
    if draw.random() < 0.3:
        draw.choice(rows)["more"] = odd(draw)
    return "; ".join(done)


def _line(row: Any, draw: Random) -> str:
    text = json.dumps(row, ensure_ascii=draw.random() < 0.5)
    if draw.random() < 0.1:
        text = text[:-1] + ', "label": 1}' if text.endswith("}") and len(text) > 2 else text
    return text


def _jsonl(rows: Rows, draw: Random) -> tuple[bytes, int | None, str]:
    done = _changed(rows, draw)
    lines, known = [_line(row, draw) for row in rows], len(rows)
    kind = draw.choice("plain plain blank joined number list deep null digits constant".split())
    place = draw.randrange(len(lines))
    put = {
        "list": "[1, 2]",
        "null": "null",
        "deep": '{"review": ' + "[" * 100_000 + "]" * 100_000 + "}",
        "digits": '{"review": "a", "label": ' + "1" * 5000 + "}",
        "constant": '{"review": "a", "label": NaN}',
        "number": "3",
    }
    if kind == "blank":
        lines.insert(place, draw.choice(["", " ", "\t"]))
    elif kind == "joined":
        lines[place] += lines[place]
    elif kind in put:
        lines[place] = put[kind]
    end = draw.choice(ENDINGS[:2])
    text = end.join(lines) + draw.choice(["", end])
    start = draw.choice(["", "", "", "\ufeff"])
    return (start + text).encode("utf-8", "surrogatepass"), known, f"jsonl {kind}: {done}"


def _json(rows: Rows, draw: Random) -> tuple[bytes, int | None, str]:
    done, known = _changed(rows, draw), len(rows)
    kind = draw.choice("list list list columns split lines object deep".split())
    data: Any = rows
    if kind == "columns":  # as pandas writes it; not a list of rows
        data = {name: [row.get(name) for row in rows] for name in ("review", "label")}
    elif kind == "split":
        data = {"columns": ["review", "label"], "data": [list(row.values()) for row in rows]}
    elif kind == "object":
        data = {"data": rows}
    text = json.dumps(data, indent=draw.choice([None, 1]))
    if kind == "lines":
        text = "\n".join(_line(row, draw) for row in rows)
    elif kind == "deep":
        text = "[" * 200_000
    return text.encode("utf-8", "surrogatepass"), known, f"json {kind}: {done}"


# --- Parquet ----------------------------------------------------------------------------


def _parquet(rows: Rows, draw: Random) -> tuple[bytes, int | None, str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts, labels = ([row[name] for row in rows] for name in ("review", "label"))
    kind = draw.choice(sorted(PARQUET))
    column: Any = PARQUET[kind](pa, labels)
    place, known = draw.choice(["label", "review", "more"]), len(rows)
    table = pa.table(
        {"review": pa.array(texts), "label": pa.array(labels), "more": pa.array(texts)}
    )
    table = table.set_column(table.column_names.index(place), place, column)
    shape = draw.choice("plain plain plain groups twice none dictionary".split())
    if shape == "twice":
        table = table.append_column("review", pa.array(texts))
    elif shape == "none":
        table, known = table[:0], 0
    file = io.BytesIO()
    size = 3 if shape == "groups" else None
    compression = draw.choice(["snappy", "gzip", "zstd", "none"])
    try:
        if shape == "dictionary":
            table = table.set_column(0, "review", table.column(0).dictionary_encode())
        pq.write_table(table, file, row_group_size=size, compression=compression)
    except (pa.ArrowException, NotImplementedError):  # a type that Parquet cannot hold
        return _parquet(rows, draw)
    return file.getvalue(), known, f"parquet {place} is {kind}, {shape}"


PARQUET: dict[str, Callable[[Any, list[int]], Any]] = {
    "int8": lambda pa, x: pa.array(x, pa.int8()),
    "uint64": lambda pa, x: pa.array([2**64 - 1 - n for n in x], pa.uint64()),
    "float": lambda pa, x: pa.array([float(n) for n in x]),
    "nan": lambda pa, x: pa.array([float("nan") for _ in x]),
    "half": lambda pa, x: pa.array([float(n) for n in x]).cast(pa.float16()),
    "bool": lambda pa, x: pa.array([bool(n) for n in x]),
    "text": lambda pa, x: pa.array([["bad", "good"][n] for n in x]),
    "large text": lambda pa, x: pa.array([str(n) for n in x], pa.large_string()),
    "binary": lambda pa, x: pa.array([b"\xff\xfe" for _ in x]),
    "null": lambda pa, x: pa.array([None for _ in x]),
    "some null": lambda pa, x: pa.array([n or None for n in x], pa.int64()),
    "list": lambda pa, x: pa.array([[n] for n in x]),
    "struct": lambda pa, x: pa.array([{"text": [str(n)], "a": n} for n in x]),
    "map": lambda pa, x: pa.array([[("a", n)] for n in x], pa.map_(pa.string(), pa.int64())),
    "timestamp": lambda pa, x: pa.array([2**62 + n for n in x], pa.timestamp("us")),
    "ns": lambda pa, x: pa.array([2**62 + n for n in x], pa.timestamp("ns", "Europe/Berlin")),
    "zone": lambda pa, x: pa.array(x, pa.timestamp("us", "No/Where")),
    "date": lambda pa, x: pa.array([2**31 - 1 - n for n in x], pa.date32()),
    "time": lambda pa, x: pa.array(x, pa.time64("ns")),
    "duration": lambda pa, x: pa.array([2**62 for _ in x], pa.duration("s")),
    "decimal": lambda pa, x: pa.array(x).cast(pa.decimal128(20, 1)),
    "dictionary": lambda pa, x: pa.array(["bad" if n else "good" for n in x]).dictionary_encode(),
    "not UTF-8": lambda pa, x: pa.array([b"\xff" for _ in x]).view(pa.string()),
}

WRITERS: dict[str, Callable[[Rows, Random], tuple[bytes, int | None, str]]] = {
    ".csv": lambda rows, draw: _table(rows, draw, delimiter=","),
    ".tsv": lambda rows, draw: _table(rows, draw, delimiter="\t"),
    ".jsonl": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
}
