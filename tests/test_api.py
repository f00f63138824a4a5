"""What the commands do as functions: they raise and return, and find each thing out once."""

from pathlib import Path

import pytest
from support.runs import result, write_recipe

import accept_llm
from accept_llm import checks
from accept_llm.data import sources, splits
from accept_llm.models import find
from accept_llm.plan import plan
from accept_llm.recipe.method import Accept
from accept_llm.recipe.recipe import load_recipe
from accept_llm.runs.result import Result, read_result


@pytest.fixture
def recipe(tmp_path: Path, tiny_llama: Path) -> Path:
    return write_recipe(tmp_path, tiny_llama, steps=2)


def test_train_returns_what_result_json_says(recipe: Path, capsys) -> None:
    notes: list[str] = []
    found = accept_llm.train(recipe, {"name": "one", "train.seed": 3}, notify=notes.append)
    assert isinstance(found, Result)
    folder = recipe.parent / "runs/one"
    assert found == read_result(folder)
    assert found.model_dump(mode="json") == result(folder)
    assert (found.seeds["train"], found.engine.kind, found.engine.ranks) == (3, "single", 1)
    assert notes[0].endswith("loading the model")
    changes = {"name": "two", "train.seed": 3, "output_dir": recipe.parent / "again"}
    again = accept_llm.train(load_recipe(recipe)[0], changes)
    assert again.test == found.test
    assert accept_llm.evaluate(folder) == pytest.approx(found.test)
    answers = accept_llm.predict(folder, ["lovely\nlamp", {"review": "cold", "id": "x"}])
    assert not capsys.readouterr().out  # transformers shows its bars on stderr
    assert any(line.startswith("step 2/2  validation: ") for line in notes)
    assert [answer["id"] for answer in answers] == ["1", "x"]


def test_a_mistake_is_raised_as_it_is(recipe: Path) -> None:
    with pytest.raises(accept_llm.RecipeError, match=r"train\.steps: got 0; allowed: at least 1"):
        accept_llm.train(recipe, {"train.steps": 0})
    with pytest.raises(accept_llm.RecipeError, match=r"recipe: got \{\}; allowed: a Recipe, or"):
        accept_llm.train({})
    with pytest.raises(accept_llm.RecipeError, match=r"engine: got 'gpu'; allowed: single, "):
        accept_llm.train(recipe, engine="gpu")
    with pytest.raises(accept_llm.RecipeError, match="overrides: got 'name=e'; allowed: a mapping"):
        accept_llm.train(recipe, "name=e")
    with pytest.raises(accept_llm.RecipeError, match="engine: ddp needs its processes started"):
        accept_llm.train(recipe, engine="ddp")
    with pytest.raises(accept_llm.RecipeError, match="split: got 'dev'; allowed: train, valid"):
        accept_llm.evaluate(recipe.parent, split="dev")
    assert not (recipe.parent / "runs").exists()
    accept_llm.train(recipe)
    for inputs in "good", {"review": "good"}, None:
        with pytest.raises(accept_llm.RecipeError, match=r"inputs: got .*; allowed: a list of"):
            accept_llm.predict(recipe.parent / "runs/run", inputs)
    with pytest.raises(accept_llm.RecipeError, match="input line 1: got 3; allowed: a text, or a"):
        accept_llm.predict(recipe.parent / "runs/run", [3])
    with pytest.raises(accept_llm.RecipeError, match="no key 'review'"):
        accept_llm.predict(recipe.parent / "runs/run", [{"text": "a"}])


def test_each_thing_is_found_out_once(recipe: Path, monkeypatch) -> None:
    """One inspection of the model folder, one sizing, one resolution of the task a run."""
    calls: list[str] = []

    def counting(module, name: str) -> None:
        real = getattr(module, name)

        def counted(*args, **kwargs):
            calls.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    counting(find, "check_folder")
    counting(find, "check_config")
    counting(Accept, "shape")
    for module in (checks, plan, sources, splits):
        counting(module, "task_from")
    accept_llm.train(recipe)
    assert sorted(calls) == ["check_folder", "shape", "task_from"]
