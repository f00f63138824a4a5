"""prompt.json: written and read, of an earlier format, and damaged in every field."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from support.runs import finish, start, write_recipe

from accept_llm.adapter.card import FORMAT, read_card
from accept_llm.adapter.folder import load
from accept_llm.errors import RecipeError
from accept_llm.heads import HEADS
from accept_llm.methods.table import METHODS
from accept_llm.recipe.head import HEAD_SPECS
from accept_llm.recipe.method import METHOD_SPECS


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    folder = tmp_path_factory.mktemp("card")
    assert finish(start(write_recipe(folder, tiny_llama, steps=2))) == [0]
    return folder / "runs/run/prompt"


def changed(adapter: Path, tmp_path: Path, **sections: Any) -> Path:
    """A copy of the adapter, with other sections in its card; None leaves one out."""
    folder = tmp_path / "prompt"
    folder.mkdir()
    for path in adapter.glob("*.safetensors"):
        (folder / path.name).write_bytes(path.read_bytes())
    data = json.loads((adapter / "prompt.json").read_text()) | sections
    data = {name: value for name, value in data.items() if value is not None}
    (folder / "prompt.json").write_text(json.dumps(data))
    return folder


def test_the_tables_have_the_kinds_of_the_recipe() -> None:
    assert set(METHODS) == set(METHOD_SPECS)
    assert set(HEADS) == set(HEAD_SPECS)
    assert all(METHODS[kind].kind == kind for kind in METHODS)
    assert all(HEADS[kind].kind == kind for kind in HEADS)


def test_written_and_read(adapter: Path) -> None:
    card, found = read_card(adapter), load(adapter)
    assert (card.format_version, card.task.labels) == (FORMAT, ["bad", "good"])
    assert card.method == found.method.card()
    assert card.head == found.head.card()
    assert card.model.quantization is None


def test_format_1_loads(adapter: Path, tmp_path: Path) -> None:
    """As it was written before methods had a section of their own."""
    data = json.loads((adapter / "prompt.json").read_text())
    sizes = {name: value for name, value in data["method"].items() if name != "kind"}
    model = {name: value for name, value in data["model"].items() if name != "quantization"}
    old = changed(
        adapter,
        tmp_path,
        **{
            "format_version": 1,
            "method": None,
            "prompt": sizes,
            "model": model | {"weights": "bf16"},
        },
    )
    assert load(old).card == load(adapter).card
    for mine, theirs in zip(
        load(old).method.parameters(), load(adapter).method.parameters(), strict=True
    ):
        assert mine.equal(theirs)


@pytest.mark.parametrize(
    ("sizes", "kind"),
    [
        ({"rank": 3, "prepended": None, "added": None}, "dept"),
        ({"rank": None, "prepended": None, "added": None}, "pt"),
    ],
)
def test_the_kind_of_a_prompt_of_format_1(adapter: Path, tmp_path: Path, sizes, kind) -> None:
    data = {"hidden": 64, "length": 6, "positions": 24, **sizes}
    folder = changed(adapter, tmp_path, format_version=1, method=None, prompt=data)
    assert read_card(folder).method["kind"] == kind


def without(section: dict[str, Any], *path: str) -> dict[str, Any]:
    first, *rest = path
    if not rest:
        return {name: value for name, value in section.items() if name != first}
    return {**section, first: without(section[first], *rest)}


FIELDS = [
    ("format_version",),
    ("model",),
    ("task",),
    ("method",),
    ("head",),
    *[("model", name) for name in ("name", "model_type", "hidden_size", "vocab_size", "dtype")],
    *[("task", name) for name in ("name", "labels", "metric")],
    *[("method", name) for name in ("kind", "hidden", "length", "positions")],
    *[("method", "prepended", name) for name in ("tokens", "hidden", "subspaces", "codewords")],
    *[("head", name) for name in ("kind", "hidden", "classes", "bias")],
]


@pytest.mark.parametrize("path", FIELDS, ids=".".join)
def test_a_field_that_is_missing_is_named(adapter: Path, tmp_path: Path, path) -> None:
    data = json.loads((adapter / "prompt.json").read_text())
    folder = changed(adapter, tmp_path, **{path[0]: None})
    (folder / "prompt.json").write_text(json.dumps(without(data, *path)))
    with pytest.raises(RecipeError) as caught:
        load(folder)
    (line,) = caught.value.problems
    assert line.startswith(f"adapter: {folder / 'prompt.json'} is damaged: {'.'.join(path)}: "), (
        line
    )


@pytest.mark.parametrize(
    ("section", "value", "said"),
    [
        ("model", [1], "model: got [1]; allowed: a mapping of keys"),
        ("method", "accept", "method: got 'accept'; allowed: a mapping of keys"),
        (
            "method",
            {"kind": "prefix"},
            "method.kind: got 'prefix'; allowed: accept, pt, dept, ",
        ),
        ("method", {"kind": "pt", "hidden": 64, "length": 6, "positions": "x"}, "method.positions"),
        (
            "method",
            {"kind": "pt", "hidden": 0, "length": 6, "positions": 9},
            "method.hidden: got 0",
        ),
        (
            "method",
            {"kind": "lora", "rank": 2, "alpha": 2, "layers": [{"name": "q"}]},
            "layers.0.inp",
        ),
        ("head", {"kind": "linear", "hidden": 64, "classes": -1, "bias": False}, "head.classes"),
        ("head", {"kind": "choice", "choices": 3}, "head.choices: got 3; allowed: a list"),
        ("head", {"kind": "linear", "hidden": 64, "classes": 2, "bias": False, "x": 1}, "head.x"),
    ],
)
def test_a_value_that_is_wrong_is_named(adapter, tmp_path, section, value, said) -> None:
    folder = changed(adapter, tmp_path, **{section: value})
    with pytest.raises(RecipeError) as caught:
        load(folder)
    assert said in "\n".join(caught.value.problems)


def test_tensors_of_another_shape_are_refused(adapter: Path, tmp_path: Path) -> None:
    data = json.loads((adapter / "prompt.json").read_text())
    folder = changed(adapter, tmp_path, head={**data["head"], "classes": 3})
    with pytest.raises(RecipeError, match=r"is damaged or incomplete: head\.safetensors"):
        load(folder)


def test_no_value_anywhere_in_a_card_ends_in_a_traceback(adapter: Path, tmp_path: Path) -> None:
    """Every field by every kind of value, and every method's kind over the sizes of this one."""
    folder = changed(adapter, tmp_path)
    card = json.loads((folder / "prompt.json").read_text())
    others = [None, [], {}, "x", -1, 1e30, True, [1, 2], {"a": 1}, *METHODS, *HEADS]
    refused = loaded = 0
    for section in ("model", "task", "method", "head", "step"):
        names = card[section] if isinstance(card[section], dict) else [None]
        for name, value in itertools.product([None, *names], others):
            one = {**card, section: value if name is None else {**card[section], name: value}}
            (folder / "prompt.json").write_text(json.dumps(one))
            try:
                load(folder)
                loaded += 1
            except RecipeError:
                refused += 1
    assert refused > loaded > 0
