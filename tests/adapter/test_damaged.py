"""Adapters whose files do not agree, or hold what no training has written."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.runs import finish, start, write_recipe

from accept_llm.adapter.card import read_card
from accept_llm.adapter.folder import load
from accept_llm.errors import RecipeError
from accept_llm.heads import Choice, Generate, LabelWords

LARGEST = 2**31 - 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    assert finish(start(write_recipe(folder, tiny_llama, steps=1))) == [0]
    return folder / "runs/run/prompt"


@pytest.fixture
def adapter(trained: Path, tmp_path: Path) -> Path:
    """A copy of an adapter, to break."""
    return Path(shutil.copytree(trained, tmp_path / "prompt"))


def said(adapter: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        load(adapter)
    return "\n".join(caught.value.problems)


def rewrite(path: Path, **changes: torch.Tensor) -> None:
    save_file({**load_file(path), **changes}, path)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("file", ["prompt", "head"])
def test_numbers_that_are_not_finite(adapter: Path, file: str, value: float) -> None:
    path = adapter / f"{file}.safetensors"
    name, tensor = next(iter(load_file(path).items()))
    tensor.view(-1)[1] = value
    rewrite(path, **{name: tensor})
    assert f"{path.name}: {name} has numbers that are not finite" in said(adapter)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int64, torch.bool])
def test_numbers_of_another_type(adapter: Path, dtype: torch.dtype) -> None:
    path = adapter / "head.safetensors"
    rewrite(path, **{"linear.weight": load_file(path)["linear.weight"].to(dtype)})
    what = f"linear.weight is {str(dtype)[6:]} [2, 64], but prompt.json makes it float32 [2, 64]"
    assert what in said(adapter)


def test_tensors_that_are_too_many_or_too_few(adapter: Path) -> None:
    rewrite(adapter / "prompt.safetensors", more=torch.zeros(1))
    assert "'more' is not of this adapter" in said(adapter)
    save_file({"x": torch.zeros(1)}, adapter / "prompt.safetensors")
    assert "no prepended.codewords" in said(adapter)


def leaves(data: Any, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    if not isinstance(data, dict):
        return [path]
    return [leaf for name, value in data.items() for leaf in leaves(value, (*path, name))]


def put(data: Any, path: tuple[str, ...], value: Any) -> Any:
    data = copy.deepcopy(data)
    holder = data
    for name in path[:-1]:
        holder = holder[name]
    holder[path[-1]] = value
    return data


def test_no_size_is_believed_without_the_tensors(adapter: Path) -> None:
    """The largest number in the place of any size allocates nothing, and names what is wrong."""
    path = adapter / "prompt.json"
    card = json.loads(path.read_text())
    sizes = [leaf for name in ("method", "head") for leaf in leaves(card[name], (name,))]
    sizes = [leaf for leaf in sizes if leaf[-1] not in ("kind", "rank", "scale", "bias")]
    assert len(sizes) >= 10
    for leaf in sizes:
        for value in (LARGEST, 1):
            path.write_text(json.dumps(put(card, leaf, value)))
            assert said(adapter).startswith("adapter: "), leaf


def test_parts_of_a_prompt_agree_with_the_whole(adapter: Path) -> None:
    path = adapter / "prompt.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps(put(card, ("method", "prepended", "tokens"), 7)))
    assert "method.prepended: got 7 tokens of width 64; allowed: 6 of width 64" in said(adapter)
    path.write_text(json.dumps(put(card, ("method", "added", "subspaces"), 65)))
    assert "method.added.subspaces: got 65; allowed: at most 64" in said(adapter)
    path.write_text(json.dumps(put(card, ("model", "hidden_size"), 32)))
    assert "method.hidden: got 64; allowed: 32, as model.hidden_size says" in said(adapter)


def test_a_card_of_brackets(adapter: Path) -> None:
    (adapter / "prompt.json").write_text("[" * 100_000)
    with pytest.raises(RecipeError, match=r"prompt\.json is damaged: not JSON"):
        read_card(adapter)


@pytest.mark.parametrize(
    ("head", "wanted"),
    [
        (LabelWords([5, 6, 7]), "token_ids: got 3 of them; allowed: one for each of 2 labels"),
        (LabelWords([5, 90]), "token_ids: got token 90; allowed: 0 to 89, those of the model"),
        (Choice([[5, 2]]), "choices: got 1 of [2] tokens; allowed: at least one token for each"),
        (Choice([[5, 2], []]), "choices: got 2 of [2, 0] tokens; allowed: at least one"),
        (Choice([[5, 2], [90]]), "choices: got token 90; allowed: 0 to 89"),
        (Generate(max_new_tokens=3, num_beams=1, end=90), "end: got token 90; allowed: 0 to 89"),
    ],
)
def test_heads_of_another_model_or_task(head: Any, wanted: str) -> None:
    lines = list(head.card_problems(hidden=64, vocabulary=90, classes=2))
    assert len(lines) == 1
    assert wanted in lines[0]


def test_a_linear_head_of_another_task(adapter: Path) -> None:
    path = adapter / "prompt.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps(put(card, ("task", "labels"), ["a", "b", "c"])))
    assert "head.classes: got 2; allowed: 3, that of model and task" in said(adapter)
