"""Keys of a recipe that have another name now: what is said, and how they are rewritten."""

from pathlib import Path

import pytest
import yaml
from support.commands import accept_llm, refused

from accept_llm.errors import RecipeError
from accept_llm.recipe.method import Accept
from accept_llm.recipe.recipe import load_recipe, override_recipe
from accept_llm.recipe.upgrade import KEPT_SCALE, RENAMED, upgrade, upgrade_text

OLD = """\
# a comment that stays
name: old
model: {kind: folder, path: prompt, weights: bf16}  # weights
task: {kind: sst2}
prompt:   # the prompt: 60 tokens
  kind: accept
head: {kind: choice, says: labels}
train: {steps: 5, lr: {prepended: 0.1, added: 0.2, head: 0.3}}
"""
NEW = """\
# a comment that stays
name: old
model: {kind: folder, path: prompt, quantization: null}  # weights
task: {kind: sst2}
method:   # the prompt: 60 tokens
  kind: accept
  scale: none
head: {kind: choice, verbalizer: labels}
train: {steps: 5, lr: {prepended: 0.1, added: 0.2, head: 0.3}}
"""


def test_every_old_key_is_answered_with_its_name_of_today(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(OLD)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    lines = caught.value.problems
    assert len(lines) == len(RENAMED), lines
    for old, new in RENAMED.items():
        (line,) = (line for line in lines if line.startswith(f"{old}: unknown key"))
        assert f"did you mean {new!r}, its name now? `accept-llm recipes upgrade FILE`" in line


def test_only_the_old_names_change_in_a_text() -> None:
    text, lines = upgrade_text(OLD)
    assert text == NEW
    first, *others = [f"{old} is {new} now" for old, new in RENAMED.items()]
    assert lines == [first, KEPT_SCALE, *others]
    assert upgrade_text(NEW) == (NEW, [])
    assert upgrade(yaml.safe_load(OLD)) == (yaml.safe_load(NEW), lines)


def test_rates_keep_their_meaning_in_every_style() -> None:
    """A recipe of before there was a scale reads the same."""
    for old, new in {
        "prompt: {kind: pt, budget: 7}\n": "method: {kind: pt, scale: none, budget: 7}\n",
        "prompt: {scale: none, kind: pt}\n": "method: {scale: none, kind: pt}\n",
        "prompt:\n    kind: pt # of\n    budget: 7\n": (
            "method:\n    kind: pt\n    scale: none # of\n    budget: 7\n"
        ),
    }.items():
        assert upgrade_text(old)[0] == new


def test_another_quantization_keeps_its_name() -> None:
    text, _ = upgrade_text("model: {kind: hub, id: a/b, weights: int8}\n")
    assert text == "model: {kind: hub, id: a/b, quantization: int8}\n"


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "a", "model": {"path": "m", "weights":"bf16"}}',
        "model:\n  weights: |-\n    bf16\n  kind: folder\n",
        "w: &w bf16\nmodel: {weights: *w}\n",
        "d: &d {weights: bf16}\nmodel: {<<: *d, path: m}\n",
    ],
    ids=["json", "block", "alias", "merge"],
)
def test_a_form_that_cannot_be_rewritten_is_refused_and_stays(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    said = f"{path}: model.weights is model.quantization now; change it by hand: "
    refused(accept_llm("recipes", "upgrade", path, cwd=tmp_path), said)
    assert path.read_text() == text


def test_the_ends_of_lines_the_mode_and_a_link_stay(tmp_path: Path) -> None:
    path, link = tmp_path / "a.yaml", tmp_path / "b.yaml"
    path.write_bytes(OLD.replace("\n", "\r\n").encode())
    path.chmod(0o640)
    link.symlink_to(path)
    accept_llm("recipes", "upgrade", link, cwd=tmp_path)
    assert path.read_bytes() == NEW.replace("\n", "\r\n").encode()
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640


def test_both_names_at_once_are_refused() -> None:
    with pytest.raises(RecipeError, match="prompt: got it beside method; allowed: method alone"):
        upgrade_text("prompt: {kind: pt}\nmethod: {kind: pt}\n")


def test_the_command_rewrites_in_place(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(OLD)
    done = accept_llm("recipes", "upgrade", path, cwd=tmp_path)
    assert (done.code, path.read_text()) == (0, NEW), done.err
    assert f"prompt is method now; {KEPT_SCALE}; model.weights is model.quantization" in done.out
    assert "nothing to rewrite" in accept_llm("recipes", "upgrade", path, cwd=tmp_path).out
    path.write_text("- a list\n")
    refused(accept_llm("recipes", "upgrade", path, cwd=tmp_path), "holds a list")
    assert path.read_text() == "- a list\n"
    assert [p.name for p in tmp_path.iterdir() if p.name != ".command"] == ["old.yaml"]


# --- groups of learning rates -----------------------------------------------------------

LEAST = "model: {kind: folder, path: m}\ntask: {kind: sst2}\nmethod: {kind: accept}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "r.yaml").write_text(LEAST + "train: {steps: 5}\n")
    return tmp_path / "r.yaml"


def rates(path: Path, *overrides: str) -> tuple[dict[str, float], list[str]]:
    recipe, notes = load_recipe(path, overrides)
    return recipe.train.lr, notes


def test_rates_by_default_as_a_number_and_as_a_mapping(path: Path) -> None:
    default = {**Accept.rates, "head": 1e-3}
    assert rates(path) == (default, [])
    assert rates(path, "method.scale=none") == (
        {"prepended": 3e-3, "added": 5e-4, "head": 1e-3},
        [],
    )
    one = {"prepended": 0.1, "added": 0.1, "head": 1e-3}  # the head keeps its own
    assert rates(path, "train.lr=0.1") == (one, [])
    assert rates(path, "train.lr.head=3e-2") == (default | {"head": 0.03}, [])
    assert rates(path, "method={kind: lora}") == ({"lora": 3e-4, "head": 1e-3}, [])
    assert load_recipe(path, ["train.weight_decay=0.5"])[0].train.weight_decay == {
        **{"prepended": 0.5, "added": 0.5, "head": 0.0}
    }


def test_a_group_that_the_method_has_not_is_refused(path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, ["train.lr.prepend=1", "train.weight_decay={adde: 1}"])
    known = "allowed: prepended, added, head (the groups of method.kind 'accept')"
    assert caught.value.problems == [
        f"train.lr.prepend: unknown group, did you mean 'prepended'? {known}",
        f"train.weight_decay.adde: unknown group, did you mean 'added'? {known}",
    ]


@pytest.mark.parametrize("value", ["-1", "many", "[1]", "yes", ".inf"])
def test_what_is_no_rate_is_refused(path: Path, value: str) -> None:
    with pytest.raises(RecipeError, match=r"train\.lr: got .*; allowed: a number of at least 0"):
        load_recipe(path, [f"train.lr={value}"])


def test_switching_the_method_leaves_its_groups_out(path: Path) -> None:
    path.write_text(LEAST + "train: {steps: 5, lr: {prepended: 0.2, added: 0.1}}\n")
    found, notes = rates(path, "method.kind=pt")
    assert found == {"prepended": 0.2, "head": 1e-3}
    assert notes == ["train.lr.added is left out: method.kind=pt has no such group"]
    found, notes = rates(path, "method.kind=lora", "train.lr=0.5")
    assert found == {"lora": 0.5, "head": 1e-3}


def test_default_rates_follow_the_scale_and_given_ones_stay(path: Path) -> None:
    recipe, _ = load_recipe(path)  # resolved: it has every rate
    found, notes = override_recipe(recipe, ["train.lr.added=0.25", "method.scale=none"])
    assert found.train.lr == {"prepended": 3e-3, "added": 0.25, "head": 1e-3}
    assert notes == [
        f"train.lr.{name} is {rate} now, the default of the changed method"
        for name, rate in {"prepended": 3e-3, "added": 5e-4}.items()
    ]
    path.write_text(LEAST + "train: {steps: 5, lr: {prepended: 0.2}}\n")
    assert rates(path, "method.scale=none") == (
        {"prepended": 0.2, "added": 5e-4, "head": 1e-3},
        [],
    )
