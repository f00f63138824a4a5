"""Recipes: defaults, reading and writing, overrides, the schema, the commands about them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from typer.testing import CliRunner

from accept_llm.cli.main import app
from accept_llm.errors import RecipeError
from accept_llm.recipe.head import HEAD_SPECS
from accept_llm.recipe.method import METHOD_SPECS
from accept_llm.recipe.recipe import Recipe, dump_recipe, load_recipe, parse_recipe, schema
from accept_llm.recipe.shipped import shipped_recipes

LEAST = """
model: {kind: folder, path: model}
task: {kind: sst2}
method: {kind: accept}
train: {steps: 5}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The shortest recipe there is."""
    (tmp_path / "least.yaml").write_text(LEAST)
    return tmp_path / "least.yaml"


def loaded(path: Path, *overrides: str) -> Recipe:
    recipe, notes = load_recipe(path, overrides)
    assert notes == []
    return recipe


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return caught.value.problems


# --- reading and writing ----------------------------------------------------------------


def test_defaults_are_the_papers(path: Path) -> None:
    recipe = loaded(path)
    assert (recipe.name, recipe.run_dir) == ("least", Path("runs/least"))
    assert (recipe.method.budget, recipe.method.tokens, recipe.task.max_length) == (100, 60, 256)
    assert (recipe.head.kind, recipe.engine) == ("linear", None)
    assert recipe.method.kind == "accept"
    assert recipe.method.added is not None
    assert (recipe.method.prepended.init, recipe.method.added.init) == (None, "zero")
    assert recipe.train.batch_size == 32


def test_prompt_length_of_each_kind(path: Path) -> None:
    assert loaded(path, "method.kind=pt").method.tokens == 100
    assert loaded(path, "method.kind=dept").method.tokens == 60
    assert loaded(path, "method.length=0").method.tokens == 0


def test_the_home_folder_in_every_path(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(path.parent))
    assert loaded(path, "output_dir=~/out").run_dir == path.parent / "out" / "least"
    assert load_recipe(f"~/{path.name}")[0] == loaded(path)
    with pytest.raises(
        RecipeError, match=r"got '~nobody-here/out', which begins with a home folder"
    ):
        _ = loaded(path, "output_dir=~nobody-here/out").run_dir


@pytest.mark.parametrize("key", ["train.seed", "task.split_seed", "train.steps", "method.length"])
def test_numbers_that_torch_cannot_take_are_refused(path: Path, key: str) -> None:
    assert problems(path, f"{key}=20250101120000") == [
        f"{key}: got 20250101120000; allowed: less than or equal to 2147483647"
    ]


PATH_KEYS = ("output_dir", "model.path", "task.train", "task.validation", "task.test")


@pytest.mark.parametrize("key", PATH_KEYS)
@pytest.mark.parametrize("value", ["x" * 256, "é" * 128, "a/" * 2001, '"a\\0b"'])
def test_paths_that_no_system_can_look_for(path: Path, key: str, value: str) -> None:
    text = "task={kind: file, train: a.csv, text: [a], label: b, labels: [x, y]}"
    (line,) = problems(path, text, "model={kind: folder, path: m}", f"{key}={value}")
    assert line.startswith(f"{key}: got ")
    assert line.endswith("a path without null characters, of at most 255 bytes a name, 4000 in all")


@pytest.mark.parametrize("key", ["name", "task.cue", "task.dir", "model.revision"])
def test_half_a_character_is_no_text(path: Path, key: str) -> None:
    (line,) = problems(path, "model={kind: hub, id: a/b}", f'{key}="a\\ud800"')
    assert line == f"{key}: got 'a\\ud800', with half a character (a lone surrogate) at 1; " + (
        "allowed: text"
    )
    (line,) = problems(path, "head={kind: choice}", 'head.words={"\\udc00": a}')
    assert line.startswith("head.words.\\udc00: got '\\udc00', with half a character")


@pytest.mark.parametrize(
    "name", ["..", "a--b", "a/b..c", "-a/b", "a/b.", ".a", "a/b.git", "x" * 97]
)
def test_names_that_the_hub_does_not_have(path: Path, name: str) -> None:
    (line,) = problems(path, f"model={{kind: hub, id: {name}}}")
    assert "allowed: owner/name of at most 96 characters" in line


@pytest.mark.parametrize("key", ["lr", "weight_decay"])
def test_rates_that_no_optimizer_can_take(path: Path, key: str) -> None:
    (line,) = problems(path, f"train.{key}=1e300")
    assert line.startswith(
        f"train.{key}: got '1e300'; allowed: a number of at least 0, or a mapping"
    )
    (line,) = problems(path, f"train.{key}={{head: 1e31}}")
    assert line.startswith(f"train.{key}.head: got '1e31'; allowed: ")


def test_a_bucket_is_drawn_in_memory(path: Path) -> None:
    (line,) = problems(path, "train.batch_size=32", "train.bucket=2147483647")
    said = "allowed: at most 312500 of such batches, 10,000,000 examples"
    assert line == f"train.bucket: got 2147483647; {said}"
    assert loaded(path, "train.batch_size=32", "train.bucket=312500").train.bucket == 312500


def test_a_recipe_is_frozen(path: Path) -> None:
    recipe = loaded(path)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.train.steps = 6  # type: ignore[misc]


@pytest.mark.parametrize("name", [*shipped_recipes(), "least"])
def test_dump_and_load_are_inverse(name: str, path: Path, tmp_path: Path) -> None:
    recipe = loaded(shipped_recipes().get(name, path))
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert loaded(tmp_path / "again.yaml") == recipe


def test_numbers_as_people_write_them(path: Path) -> None:
    """PyYAML reads 3e-3 as text; pydantic reads that text as a number."""
    recipe = loaded(path, "train.clip_norm=3e-3", "train.steps='7'", "train.seed=0")
    assert (recipe.train.clip_norm, recipe.train.steps, recipe.train.seed) == (3e-3, 7, 0)
    assert problems(path, "train.clip_norm=yes") == [
        "train.clip_norm: got True; allowed: a number (YAML reads yes, no, on and off as true "
        "and false)"
    ]


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", "[1]", "null", ".inf"])
def test_steps_are_a_whole_number(path: Path, value: str) -> None:
    (line,) = problems(path, f"train.steps={value}")
    assert line.startswith("train.steps: got ")
    assert "; allowed: " in line


def test_checks_between_sections_show_beside_other_mistakes(path: Path) -> None:
    assert problems(path, "task.max_length=9", "train.stps=1", "head.kind=label_words") == [
        "train.stps: unknown key, did you mean 'steps'? allowed: "
        + ", ".join(Recipe.model_fields["train"].annotation.model_fields),  # type: ignore
        "task.max_length: got 9; allowed: at least the prompt's length (60)",
    ]


def test_a_key_of_another_section(path: Path) -> None:
    (line,) = problems(path, "max_length=9")
    assert line.startswith("max_length: unknown key, did you mean 'task.max_length'? allowed: name")


def test_keys_that_yaml_reads_as_booleans(path: Path) -> None:
    (line,) = problems(path, "head={kind: label_words, words: {yes: fine}}")
    assert line.startswith("head.words.")
    assert line.endswith("allowed: keys in quotes")


def test_parse_recipe_says_how_many() -> None:
    data = {"name": "x", **yaml.safe_load(LEAST)}
    del data["train"]
    with pytest.raises(RecipeError, match=r"^here: 1 problem\n  train: missing; it must be given"):
        parse_recipe(data, source="here")


# --- overrides --------------------------------------------------------------------------


def test_switching_the_kind_drops_what_only_the_old_one_has(path: Path) -> None:
    path.write_text(LEAST.replace("accept}", "accept, length: 20, added: null, budget: 30}"))
    recipe, notes = load_recipe(path, ["method.kind=pt"])
    assert (recipe.method.kind, recipe.method.budget) == ("pt", 30)
    assert notes == [
        "method.length is left out: method.kind=pt has no such key",
        "method.added is left out: method.kind=pt has no such key",
    ]
    (line,) = problems(path, "method.length=5", "method.kind=pt")  # asked for, so not dropped
    assert line.startswith("method.length: unknown key for kind 'pt'; allowed: kind, scale, budget")


def test_overrides_make_missing_sections(path: Path) -> None:
    recipe = loaded(path, "method.prepended.subspaces=12", "engine.kind=single")
    assert recipe.method.kind == "accept"
    assert recipe.method.prepended.subspaces == 12
    assert recipe.engine is not None
    path.write_text(LEAST.replace("accept}", "accept, added: null}"))
    recipe = loaded(path, "method.added.subspaces=4")
    assert recipe.method.kind == "accept"
    assert recipe.method.added is not None
    assert problems(path, "head.bias=true") == [
        f"head.kind: missing; allowed: {', '.join(HEAD_SPECS)}"
    ]


def test_override_values_may_hold_equals_signs_and_mappings(path: Path) -> None:
    assert loaded(path, "output_dir=a=b").output_dir == "a=b"
    assert loaded(path, "task={kind: rte, cue: off}").task.cue is False


def test_aliases_and_merges_are_no_doubled_keys(path: Path) -> None:
    shared = "{steps: 5, lr: &a {prepended: 1, added: 1, head: 1}, weight_decay: {<<: *a, head: 0}}"
    path.write_text(LEAST.replace("{steps: 5}", shared))
    assert loaded(path).train.weight_decay["head"] == 0


# --- the commands -----------------------------------------------------------------------


def called(*args: str | Path) -> str:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_schema_knows_every_key() -> None:
    tree = json.loads(called("schema"))
    assert tree == json.loads(schema())
    assert set(tree["properties"]) == set(Recipe.model_fields)
    assert tree["additionalProperties"] is False
    assert set(tree["required"]) == {"name", "model", "task", "method", "train"}
    train = tree["$defs"]["Train"]["properties"]
    assert train["steps"]["minimum"] == 1
    assert train["patience"]["description"].startswith("Stop after this many evaluations")
    kinds = tree["properties"]["method"]["discriminator"]["mapping"]
    assert set(kinds) == set(METHOD_SPECS)


@pytest.mark.parametrize("name", shipped_recipes())
def test_schema_has_the_keys_of_shipped_recipes(name: str) -> None:
    tree = json.loads(schema())
    data = yaml.safe_load(shipped_recipes()[name].read_text())
    assert list(_strange(data, tree, tree["$defs"])) == []


def _strange(data: Any, node: dict[str, Any], defs: dict[str, Any]) -> list[str]:
    """The keys of `data` that the schema does not know."""
    while "$ref" in node:
        node = defs[node["$ref"].split("/")[-1]]
    choices = node.get("oneOf") or node.get("anyOf")
    if choices:
        return min((_strange(data, choice, defs) for choice in choices), key=len)
    if not isinstance(data, dict):
        return []
    more = node.get("additionalProperties")
    if isinstance(more, dict):
        return [key for value in data.values() for key in _strange(value, more, defs)]
    known = node.get("properties", {})
    found = [key for key in data if key not in known]
    for key in known.keys() & data.keys():
        found += _strange(data[key], known[key], defs)
    return found


def test_recipes_are_listed_copied_and_valid(tmp_path: Path) -> None:
    listed = called("recipes")
    assert all(f"{name}\n" in listed for name in shipped_recipes())
    copy = called("recipes", "copy", "quickstart", tmp_path).strip()
    assert called("validate", copy, *shipped_recipes().values()).startswith(f"{copy}: ok\n")


def test_reading_recipes_loads_no_torch() -> None:
    code = "import sys; from accept_llm.recipe import *; load_recipe(sys.argv[1]); schema()"
    check = "; assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    recipe = next(iter(shipped_recipes().values()))
    subprocess.run([sys.executable, "-c", code + check, str(recipe)], check=True)
