"""What a swarm needs that can be tried without one: configs and tokenizers in their old form,
names, requests, the probe, the recipe's section."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer
from hypothesis import given
from hypothesis import strategies as st

from accept_llm.backbones.remote import RemoteBackbone, split_by_cost
from accept_llm.cli.swarm import model_spec, record
from accept_llm.engines.check import on_swarm
from accept_llm.errors import RecipeError
from accept_llm.models.folder import ModelInfo, check_folder
from accept_llm.models.tokenizer import old_form
from accept_llm.recipe.engine import PetalsEngine
from accept_llm.recipe.recipe import load_recipe
from accept_llm.swarm import probe
from accept_llm.swarm.directory import ServerEntry, find_missing, knock, ranges
from accept_llm.swarm.folder import old_config, petals_folder, swarm_name
from accept_llm.swarm.server import parse_blocks

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "/ip4/10.0.0.1/tcp/31330/p2p/QmaxY4uzU4Zz7tncQdXfX2j1BUB8V6xLsR9moVZSMYYuiJ"
LLAMA = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 8}


def info_of(folder: Path) -> ModelInfo:
    info, problems = check_folder(folder)
    assert info is not None, problems
    return info


# --- old forms --------------------------------------------------------------------------


def test_rotary_settings_go_where_transformers_4_33_reads_them() -> None:
    plain = {"rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}, "dtype": "bfloat16"}
    old, problems = old_config(LLAMA | plain)
    assert problems == []
    assert old == LLAMA | {"rope_theta": 1e5, "torch_dtype": "bfloat16"}
    scaled = {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}}
    assert old_config(LLAMA | scaled)[0] == LLAMA | {
        "rope_theta": 1e4,
        "rope_scaling": {"type": "linear", "factor": 2.0},
    }
    assert old_config(LLAMA) == (LLAMA, [])


@pytest.mark.parametrize(
    ("newer", "says"),
    [
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}},
            "rope_type: got 'llama3'",
        ),
        ({"attention_bias": True}, "attention_bias: got True; allowed: False"),
        ({"mlp_bias": True}, "mlp_bias: got True"),
        ({"head_dim": 16}, "head_dim: got 16; allowed: hidden_size / num_attention_heads (8)"),
    ],
)
def test_what_transformers_4_33_cannot_compute_is_refused(newer: dict, says: str) -> None:
    _, problems = old_config(LLAMA | newer)
    assert len(problems) == 1
    assert says in problems[0]


def test_a_model_s_folder_is_linked_with_its_config_translated(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCEPT_CACHE_DIR", str(tmp_path))
    info = info_of(tiny_llama)
    folder = petals_folder(info)
    config = json.loads((folder / "config.json").read_text())
    assert "rope_parameters" not in config
    assert config["rope_theta"] == 10_000.0
    assert (folder / "model.safetensors").resolve() == (tiny_llama / "model.safetensors").resolve()
    assert petals_folder(info) == folder


def test_the_swarm_s_name_is_that_of_the_weights(tiny_llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for file in tiny_llama.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    name = swarm_name(info_of(tiny_llama))
    assert swarm_name(info_of(copy)) == name
    assert name.startswith("llama-64x2-")
    assert "." not in name  # which would part the block's number from it
    tensors = load_file(copy / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"] *= 2
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert swarm_name(info_of(copy)) != name


def test_merges_are_written_as_text() -> None:
    new = {"model": {"type": "BPE", "merges": [["a", "b"], ["ab", "c"]], "ignore_merges": False}}
    assert old_form(new)["model"] == {"type": "BPE", "merges": ["a b", "ab c"]}
    with pytest.raises(ValueError, match="a merge has a space"):
        old_form({"model": {"type": "BPE", "merges": [["a ", "b"]]}})
    with pytest.raises(ValueError, match="ignores merges"):
        old_form({"model": {"type": "BPE", "merges": [], "ignore_merges": True}})


# --- requests ---------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40),
    m=st.integers(0, 30),
    limit=st.integers(10, 500),
    parts=st.integers(1, 9),
)
def test_requests_hold_every_row_once_within_the_limit(
    lengths: list[int], m: int, limit: int, parts: int
) -> None:
    backbone: Any = SimpleNamespace(limit=limit, parts=parts)
    groups = RemoteBackbone._groups(backbone, lengths, m)
    assert sorted(row for rows in groups for row in rows) == list(range(len(lengths)))
    for rows in groups:
        cost = len(rows) * (m + max(lengths[i] for i in rows))
        assert cost <= limit or len(rows) == 1
    assert len(groups) <= max(parts, len(split_by_cost(sorted(m + n for n in lengths), limit)))


def test_requests_of_equal_rows_are_as_many_as_asked_for() -> None:
    backbone: Any = SimpleNamespace(limit=10_000, parts=4)
    assert [len(rows) for rows in RemoteBackbone._groups(backbone, [5] * 16, 3)] == [4] * 4


# --- who serves what --------------------------------------------------------------------


def test_missing_blocks_are_named_as_a_server_takes_them() -> None:
    servers = [
        ServerEntry("a", 0, 2, None, None, None),
        ServerEntry("b", 3, 4, None, None, None, True),
    ]
    assert find_missing(servers, 5) == [2, 3, 4]
    assert ranges([2, 3, 4]) == "2:5"
    assert ranges([0, 2, 3, 7]) == "0:1, 2:4, 7:8"


@pytest.mark.parametrize("text", ["3", "3:", ":3", "3:3", "4:2", "0:9", "a:b", "-1:3"])
def test_blocks_that_are_none(text: str) -> None:
    with pytest.raises(RecipeError, match="--blocks: got"):
        parse_blocks(text, 8)
    assert parse_blocks("2:8", 8) == (2, 8)
    assert parse_blocks(None, 8) == (0, 8)


# --- the probe --------------------------------------------------------------------------


def made(state: torch.Tensor, kind: str = "fp32", tokens: str = "t") -> probe.Probe:
    import base64

    text = base64.b64encode(state.numpy().astype("<f4").tobytes()).decode()
    return probe.Probe(kind, tokens, text)


def test_the_probe_tells_what_is_too_far() -> None:
    state = torch.linspace(-2, 2, 50)
    near, far = made(state * 1.0005), made(state * 1.01)
    source = Path("adapter")
    assert probe.check(near, made(state), source=source) == pytest.approx(5e-4, rel=1e-2)
    with pytest.raises(RecipeError, match=r"differ from those in adapter by 0\.01"):
        probe.check(far, made(state), source=source)
    assert probe.check(far, made(state, "bf16"), source=source) > 0  # the coarser side counts
    for bad in (made(state[:-1]), made(state * float("nan"))):
        with pytest.raises(RecipeError, match="by inf"):
            probe.check(bad, made(state), source=source)
    with pytest.raises(RecipeError, match="other tokens"):
        probe.check(made(state, tokens="u"), made(state), source=source)


def test_a_record_is_kept_with_the_model_and_a_damaged_one_is_said(
    tiny_llama: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_llama.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    info, record = info_of(folder), made(torch.ones(4))
    assert probe.find(info) is None
    path = probe.record(record, info)
    assert path.parent == folder
    assert probe.find(info) == (record, path)
    path.write_text('{"kind": "fp32"}')
    with pytest.raises(RecipeError, match="damaged"):
        probe.find(info)


# --- the recipe -------------------------------------------------------------------------


def test_addresses_are_checked_one_by_one() -> None:
    path = ROOT / "recipes/smollm2_sst2_petals.yaml"
    recipe, _ = load_recipe(path, [f"engine.peers={ADDRESS}"])
    assert isinstance(recipe.engine, PetalsEngine)
    assert recipe.engine.peers == [ADDRESS]
    with pytest.raises(RecipeError, match=r"engine.peers.1: got '10\.0\.0\.1:31330'") as caught:
        load_recipe(path, [f"engine.peers=[{ADDRESS}, '10.0.0.1:31330']"])
    assert "/ip4/HOST/tcp/PORT/p2p/ID" in str(caught.value)


def test_an_address_on_the_command_line_is_checked_before_anything_is_asked() -> None:
    with pytest.raises(RecipeError, match=r"--peers: got \['10.0.0.1:31330'\]; allowed: as a"):
        knock([ADDRESS, "10.0.0.1:31330"], 1.0, field="--peers")


def test_an_evaluation_is_by_this_machine_unless_servers_are_given() -> None:
    recipe, _ = load_recipe(ROOT / "recipes/smollm2_sst2_petals.yaml")
    assert on_swarm(recipe, None) == (recipe, "single")
    changed, kind = on_swarm(recipe, [ADDRESS])
    assert kind == "petals"
    assert isinstance(changed.engine, PetalsEngine)
    assert changed.engine.peers == [ADDRESS]
    assert changed.engine.wait == 120  # the recipe's other settings stay
    with pytest.raises(RecipeError, match=r"--peers: got \['nobody'\]; allowed: as a server"):
        on_swarm(recipe, ["nobody"])


def test_a_model_is_named_by_folder_file_recipe_or_id(tmp_path: Path) -> None:
    assert model_spec(str(tmp_path)).kind == "folder"
    assert model_spec("some/model.gguf").kind == "gguf"
    assert model_spec("meta-llama/Llama-2-7b-hf").kind == "hub"
    assert model_spec(str(ROOT / "recipes/smollm2_sst2_petals.yaml")).dtype == "fp32"
    with pytest.raises(RecipeError, match="MODEL: got 'not/a/model'"):
        model_spec("not/a/model")


def test_a_type_that_is_asked_for_counts_for_every_model(tmp_path: Path) -> None:
    recipe = str(ROOT / "recipes/smollm2_sst2_petals.yaml")
    assert model_spec(recipe, "bf16").dtype == "bf16"
    assert model_spec(recipe, default="bf16").dtype == "fp32"  # the recipe's
    assert model_spec(str(tmp_path), default="fp32").dtype == "fp32"
    for model in (recipe, str(tmp_path), "some/model.gguf", "not/a/model"):
        with pytest.raises(RecipeError, match="--dtype: got 'fp16'; allowed: bf16, fp32"):
            model_spec(model, "fp16")


def test_record_names_a_bad_type(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        record(str(ROOT / "recipes/smollm2_sst2_petals.yaml"), dtype="fp16")
    assert "--dtype: got 'fp16'; allowed: bf16, fp32" in capsys.readouterr().err
