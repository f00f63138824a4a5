"""The recipes that ship: each loads and says how to run it; listing and copying them."""

from pathlib import Path

import pytest
import yaml
from support.commands import ROOT

from accept_llm.errors import RecipeError
from accept_llm.recipe.recipe import load_recipe
from accept_llm.recipe.shipped import copy_recipe, describe_recipe, shipped_recipes, shipped_sweeps

FOLDER = ROOT / "recipes"


def test_recipes_ship() -> None:
    found = {p.relative_to(FOLDER).with_suffix("").as_posix() for p in FOLDER.rglob("*.yaml")}
    assert {*shipped_recipes(), *shipped_sweeps()} == found
    assert "methods/lora" in shipped_recipes()


@pytest.mark.parametrize("name", shipped_recipes())
def test_recipe_loads_and_says_how_to_run_it(name: str) -> None:
    path = shipped_recipes()[name]
    recipe, notes = load_recipe(path)
    assert recipe.name == path.stem
    assert notes == []
    command, *about = describe_recipe(path).splitlines()
    starts = ("accept-llm train ", "accelerate launch ", "torchrun ", "python launchers/")
    assert command.startswith(starts), f"the first line is {command!r}, not a command"
    assert f"recipes/{name}.yaml" in command.split()
    assert about, "the second line must be a comment that says what the recipe is"


PAPER = "mnli qqp qnli sst2 stsb mrpc rte cola multirc boolq wic wsc.fixed cb".split()
PAPER_QA = "nq hotpotqa searchqa newsqa".split()


def test_t5_base_on_the_17_tasks_of_the_paper() -> None:
    """They differ in the task, its head, the steps and the LR of SCAP, and in nothing else."""
    paths = FOLDER.glob("t5_base_*.yaml")
    recipes = {path.stem.removeprefix("t5_base_"): load_recipe(path)[0] for path in paths}
    assert set(recipes) == {*PAPER, *PAPER_QA}
    rest = set()
    for name, recipe in recipes.items():
        assert recipe.task.kind == name
        large = name in {"mnli", "qqp", "qnli", "sst2", *PAPER_QA}
        assert recipe.train.steps == (300_000 if large else 30_000)
        writes = name in {"stsb", *PAPER_QA}
        assert recipe.head.kind == ("generate" if writes else "choice")
        data = recipe.model_dump()
        del data["name"], data["head"], data["task"]["kind"], data["task"]["max_length"]
        del data["train"]["steps"], data["train"]["lr"]["added"]
        rest.add(str(data))
    assert len(rest) == 1


def test_copy_recipe_never_overwrites(tmp_path: Path) -> None:
    name, source = next(iter(shipped_recipes().items()))
    target = copy_recipe(name, tmp_path)
    assert target == tmp_path / f"{name}.yaml"
    theirs = source.read_text().splitlines()
    assert target.read_text().splitlines() == [f"# accept-llm train {target}", *theirs[1:]]
    target.write_text("mine")
    with pytest.raises(ValueError, match="exists and is left as it is"):
        copy_recipe(name, tmp_path)
    assert target.read_text() == "mine"


def test_a_copy_is_named_after_its_file(tmp_path: Path) -> None:
    """So that the run of mine.yaml is runs/mine."""
    for file in ("mine.yaml", "yes.yaml", "2024.yaml", "1e3.yaml"):
        text = copy_recipe("smollm2_sst2", tmp_path / file).read_text()
        assert yaml.safe_load(text)["name"] == file.removesuffix(".yaml")
        assert text.startswith(f"# accept-llm train {tmp_path / file}\n")
    with pytest.raises(RecipeError, match=r"recipes: got 'a b.yaml', which names the copy and its"):
        copy_recipe("smollm2_sst2", tmp_path / "a b.yaml")
    assert not (tmp_path / "a b.yaml").exists()


def test_copy_recipe_knows_what_you_meant(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'quickstart'") as caught:
        copy_recipe("quikstart", tmp_path)
    assert all(name in str(caught.value) for name in shipped_recipes())
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_in_a_folder_is_copied_by_its_path_or_its_last_part(tmp_path: Path) -> None:
    source, _ = load_recipe(shipped_recipes()["methods/lora"])
    mine, _ = load_recipe(copy_recipe("methods/lora", tmp_path / "mine.yaml"))
    assert mine == source.model_copy(update={"name": "mine"})
    assert copy_recipe("lora", tmp_path) == tmp_path / "lora.yaml"
