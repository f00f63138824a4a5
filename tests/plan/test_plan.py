"""The plan against models that are really built, graphs that are really kept, and runs."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from support.commands import ROOT, accept_llm, refused
from support.runs import recipe_data, start, write_recipe
from support.tiny_models import write_t5
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from accept_llm.backbones import int8, linear
from accept_llm.backbones.loading import load_whole
from accept_llm.checks import Prepared, prepare
from accept_llm.cli import train as cli
from accept_llm.data.batches import collate
from accept_llm.data.sources import task_from
from accept_llm.data.splits import Splits
from accept_llm.engines.base import opened_engine
from accept_llm.engines.facts import ENGINES, LOCAL
from accept_llm.errors import RecipeError
from accept_llm.models import sizes
from accept_llm.models.families import PACKED
from accept_llm.models.folder import check_folder
from accept_llm.models.sizes import read_sizes
from accept_llm.plan import machine as machines
from accept_llm.plan import memory, plan
from accept_llm.plan.memory import count_saved
from accept_llm.plan.show import _facts
from accept_llm.recipe.recipe import load_recipe
from accept_llm.training.loading import load
from accept_llm.training.run import frozen_bytes
from benchmarks.plan import compare

LLAMA2_7B = {
    **{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008},
    **{"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32},
    **{"vocab_size": 32000, "tie_word_embeddings": False, "max_position_embeddings": 4096},
}
SMALL = {
    **{"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3, "vocab_size": 500},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False},
    "pad_token_id": 0,
}
T5 = {"d_model": 64, "d_kv": 8, "d_ff": 160, "num_heads": 4, "num_layers": 3, "vocab_size": 500}
FAMILIES: dict[str, dict[str, Any]] = {
    **{name: {**SMALL, "model_type": name} for name in ("llama", "mistral", "qwen3", "phi3")},
    **{name: {**SMALL, "model_type": name} for name in ("cohere", "gemma3_text", "olmo")},
    "llama tied": {**SMALL, "model_type": "llama", "tie_word_embeddings": True},
    "wide heads": {**SMALL, "model_type": "qwen3", "head_dim": 32},
    "mixtral": {**SMALL, "model_type": "mixtral", "num_local_experts": 4},
    "gemma": {**SMALL, "model_type": "gemma", "head_dim": 16, "tie_word_embeddings": True},
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 500},
    "opt": {
        **{"model_type": "opt", "hidden_size": 64, "ffn_dim": 256, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "vocab_size": 500, "word_embed_proj_dim": 64},
    },
    "t5 v1.0": {**T5, "model_type": "t5"},
    "t5 v1.1": {**T5, "model_type": "t5", "feed_forward_proj": "gated-gelu"},
}


def by_torch(config: dict[str, Any]) -> tuple[int, int]:
    """Numbers in the matrices of the layers, and in word embeddings and LM head."""
    settings = AutoConfig.for_model(**config)
    auto = AutoModelForSeq2SeqLM if config["model_type"] == "t5" else AutoModelForCausalLM
    with torch.device("meta"):
        lm = auto.from_config(settings)
    ends = {lm.get_input_embeddings().weight, lm.get_output_embeddings().weight}
    tables = {m.weight for m in lm.modules() if isinstance(m, torch.nn.Embedding)} - ends
    matrices = {p for p in lm.parameters() if p.ndim > 1} - ends - tables
    return sum(p.numel() for p in matrices), sum(p.numel() for p in ends)


@pytest.mark.parametrize("name", FAMILIES)
def test_sizes_are_those_of_the_model(name):
    config = FAMILIES[name]
    sizes = read_sizes(json.loads(AutoConfig.for_model(**config).to_json_string(use_diff=False)))
    linear, ends = by_torch(config)
    router = SMALL["num_hidden_layers"] * 4 * SMALL["hidden_size"] if name == "mixtral" else 0
    assert sizes.linear + router == linear
    assert sizes.words + sizes.head == ends


# --- what autograd keeps ----------------------------------------------------------------


def kept_by_autograd(folder: Path, recipe_file: Path, *overrides: str) -> tuple[float, float]:
    """Bytes that a forward pass of eight examples keeps beside weights, and the plan's."""
    recipe, _ = load_recipe(recipe_file, ["train.batch_size=8", *overrides])
    prepared = prepare(recipe, "single")
    storages: dict[int, int] = {}

    def note(x: torch.Tensor) -> torch.Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with opened_engine("single") as engine:
        loaded = load(prepared, engine)
        model, rows = loaded.model, loaded.encode(prepared.rows.train[:8])
        weights = {p.untyped_storage().data_ptr() for p in model.backbone.module.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            losses = model.head.losses(model.backbone, collate(rows), prompt=model.method.compose())
        losses.sum().backward()
    found = sum(size for at, size in storages.items() if at not in weights)
    made = plan.make_plan(recipe)
    counts = [len(row.tokens) for row in rows]
    lengths = made.work.lengths
    exact = type(lengths)(sum(counts) / 8, 0, max(counts), 8, "")
    work = replace(made.work, lengths=exact)
    return found, count_saved(made.sizes, work, machine=made.machine, rows=8)[0]


@pytest.fixture(scope="module")
def long_recipe(tmp_path_factory, tiny_llama) -> Path:
    """Inputs of some fifty tokens, so that they and not small change decide."""
    folder = tmp_path_factory.mktemp("long")
    for name in "train", "validation", "test":
        rows = [
            {"review": "lovely fast steady warm " * (4 + i % 5), "label": i % 2} for i in range(12)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = recipe_data(folder, tiny_llama)
    data["task"]["max_length"] = 128
    path = folder / "recipe_in.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_a_causal_model_keeps_what_the_plan_says(tiny_llama, long_recipe, layout, dtype):
    changes = [f"model.layout={layout}", f"model.dtype={dtype}"]
    found, planned = kept_by_autograd(tiny_llama, long_recipe, *changes)
    assert planned == pytest.approx(found, rel=0.12)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_an_encoder_decoder_keeps_what_the_plan_says(tmp_path, long_recipe, dtype):
    folder = write_t5(tmp_path, d_ff=256, num_layers=4)
    changes = [f"model.path={folder}", f"model.dtype={dtype}", "head.kind=choice"]
    found, planned = kept_by_autograd(folder, long_recipe, *changes)
    assert planned == pytest.approx(found, rel=0.12)


def test_checkpointing_keeps_the_inputs_of_blocks(tiny_llama, long_recipe):
    found, planned = kept_by_autograd(tiny_llama, long_recipe, "model.checkpointing=true")
    assert found < planned  # one block is computed again in the backward pass, after the count
    whole, _ = kept_by_autograd(tiny_llama, long_recipe)
    assert planned < whole


# --- weights ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize(
    ("dtype", "quantization"), [("fp32", None), ("bf16", None), ("bf16", "int8")]
)
def test_weights_take_what_the_plan_says(tmp_path, tiny_llama, tiny_t5, kind, dtype, quantization):
    folder = {"llama": tiny_llama, "t5": tiny_t5}[kind]
    info, problems = check_folder(folder)
    assert info, problems
    backbone = load_whole(
        info, dtype=dtype, layout="padded", device=torch.device("cpu"), quantization=quantization
    )
    path = write_recipe(tmp_path, folder)
    made = plan.make_plan(
        load_recipe(path, [f"model.dtype={dtype}", f"model.quantization={quantization or 'null'}"])[
            0
        ]
    )
    assert made.chosen.needs.weights == pytest.approx(frozen_bytes(backbone.module), rel=0.02)


def test_a_shard_is_a_part(tmp_path, tiny_llama):
    made = plan.make_plan(load_recipe(write_recipe(tmp_path, tiny_llama))[0], gpus=4)
    held = {(r.needs.engine, r.needs.quantization): r.needs.weights for r in made.rows}
    assert held["fsdp2", None] == held["zero3", None] == held["ddp", None] / 4
    assert held["single", None] == held["ddp", None]


def test_constants_are_those_of_the_modules_that_load_torch():
    assert memory.INT8_ROWS == linear.ROWS
    assert int8.GROUPS[0] == memory.SCALED
    assert set(PACKED) <= {*sizes.GATED, *sizes.PLAIN}


def test_one_process_has_the_whole_host(tmp_path, tiny_llama, monkeypatch):
    """Whatever the number of ranks that the others share it with."""
    monkeypatch.setattr(machines, "host_memory", lambda: 8e9)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    recipe, _ = load_recipe(write_recipe(tmp_path, tiny_llama, batch_size=6))
    both = {kind: plan.make_plan(recipe, gpus=2, engine=kind) for kind in ("single", "ddp")}
    assert both["single"].chosen.memory == 2 * both["ddp"].chosen.memory == 8e9
    printed = {kind: " ".join(_facts(made)) for kind, made in both.items()}
    assert "on each rank 1 pass(es) of 6" in printed["single"]
    assert "on each rank 1 pass(es) of 3" in printed["ddp"]


def test_options_of_fsdp2(tmp_path, tiny_llama):
    path = write_recipe(tmp_path, tiny_llama)

    def needs(*changes: str) -> Any:
        recipe, _ = load_recipe(path, ["engine.kind=fsdp2", "model.dtype=bf16", *changes])
        return plan.make_plan(recipe, gpus=4, gpu_memory=24e9).chosen.needs

    plain, hybrid, host = needs(), needs("engine.shard_size=2"), needs("engine.offload=true")
    assert hybrid.weights == 2 * plain.weights
    assert hybrid.traffic == pytest.approx(plain.traffic * (1 / 2) / (3 / 4))
    assert (host.weights, host.host) == (0, plain.host + 4 * plain.weights)
    wide = needs("engine.param_dtype=fp32")
    assert wide.weights == plain.weights
    assert wide.traffic == 2 * plain.traffic


# --- the command ------------------------------------------------------------------------


@pytest.fixture
def config_only(tmp_path) -> Path:
    """A recipe for Llama-2-7B's shape, of which only config.json is here."""
    folder = tmp_path / "llama2_7b"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA2_7B))
    data = recipe_data(tmp_path, folder, batch_size=32)
    data["model"]["dtype"] = "bf16"
    path = tmp_path / "recipe_in.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def planned(path: Path, *args: str) -> dict[str, Any]:
    done = accept_llm("plan", path, "--json", *args, cwd=path.parent)
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_it_needs_the_config_alone(config_only):
    found = planned(config_only, "--gpus", "2", "--gpu-memory", "24")
    assert found["model"]["parameters"] == pytest.approx(6.738e9, rel=1e-3)
    assert len(found["rows"]) == sum(len(ENGINES[kind].quantizations) for kind in LOCAL)
    assert found["rows"]["single none"]["weights"] == pytest.approx(13.477e9, rel=1e-3)
    assert found["rows"]["fsdp2 int8"]["weights"] < 0.27 * 13.477e9
    assert found["engine"] == "fsdp2"


def test_it_prints_every_engine_and_format(config_only):
    done = accept_llm("plan", config_only, "--gpu-memory", "24", cwd=config_only.parent)
    assert done.code == 0, done.err
    for words in (
        "single*",
        "ddp",
        "fsdp2",
        "zero3",
        "bnb-nf4",
        "a step under single:",
        "Disk:",
        "fits",
    ):
        assert words in done.out


@pytest.mark.parametrize(("memory", "batch"), [("20", "8"), ("15", "32"), ("10", "64"), ("9", "8")])
def test_the_lines_to_change_make_it_fit(config_only, memory, batch):
    given = ["--gpus", "2", "--gpu-memory", memory, "--engine", "single"]  # which uses one
    given.append(f"train.batch_size={batch}")
    before = planned(config_only, "task.max_length=256", *given)
    assert before["rows"]["single none"]["fits"] == "no"
    lines = [line.replace(": ", "=") for line in before["changes"]]
    assert lines
    after = planned(config_only, "task.max_length=256", *given, *lines)
    chosen = after["rows"][f"single {after['quantization'] or 'none'}"]
    assert chosen["fits"] in ("yes", "close")
    assert chosen["total"] <= float(memory) * 1e9


def test_a_larger_batch_than_the_largest_does_not_fit(config_only):
    given = ["--gpu-memory", "24", "--engine", "single"]
    most = planned(config_only, *given)["rows"]["single none"]["largest_rows"]
    for rows, fits in ((most, True), (most + 1, False)):
        row = planned(config_only, *given, f"train.batch_size={rows}")["rows"]["single none"]
        assert (row["total"] <= 24e9) == fits


T5_XXL = {
    **{"model_type": "t5", "d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64},
    **{"num_layers": 24, "num_decoder_layers": 24, "feed_forward_proj": "gated-gelu"},
    **{"vocab_size": 32128, "tie_word_embeddings": False},
}


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/*_24gb*.yaml")), ids=lambda p: p.stem)
def test_the_24_gb_recipes_fit_by_plan(tmp_path, monkeypatch, path):
    """With inputs as long as task.max_length, for which no rows are needed."""
    monkeypatch.setattr(plan, "sample", lambda spec, count: ([], 0))
    (tmp_path / "config.json").write_text(json.dumps(T5_XXL if "t5" in path.stem else LLAMA2_7B))
    recipe, _ = load_recipe(path, ["model.kind=folder", f"model.path={tmp_path}"])
    made = plan.make_plan(recipe, gpu_memory=24e9)
    assert (made.engine, made.chosen.fits) == ("single", "yes")


BAD: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "engine": (["--engine", "fsdp"], ("--engine: got 'fsdp'", ", ".join(LOCAL))),
    "weights": (
        ["--engine", "zero3", "model.quantization=int8"],
        ("model.quantization: got 'int8'", "allowed under zero3: null"),
    ),
    "folder": (["model.path=nowhere"], ("model.path: nowhere does not exist",)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(config_only, name):
    args, texts = BAD[name]
    refused(accept_llm("plan", config_only, *args, cwd=config_only.parent), *texts)


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        ({"model_type": "rwkv"}, ("no plan for a model of type 'rwkv'", "allowed: cohere, gemma")),
        ({"model_type": "bert"}, ("model_type: got 'bert', an encoder",)),
        ({"intermediate_size": "big"}, ("no whole number above 0 for intermediate_size",)),
        ({"num_hidden_layers": 0}, ("no whole number above 0 for num_hidden_layers",)),
    ],
)
def test_a_config_that_cannot_be_used(config_only, change, texts):
    path = config_only.parent / "llama2_7b" / "config.json"
    path.write_text(json.dumps(LLAMA2_7B | change))
    with pytest.raises(RecipeError) as caught:
        plan.make_plan(load_recipe(config_only)[0], gpu_memory=24e9)
    assert all(text in str(caught.value) for text in texts)


def test_a_tokenizer_beside_the_config_is_looked_at_as_training_does(tmp_path, tiny_llama):
    """Or a plan would say "it fits" of what cannot be trained."""
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    recipe = load_recipe(write_recipe(tmp_path, folder))[0]
    config = json.loads((folder / "config.json").read_text())

    def refusal() -> str:
        with pytest.raises(RecipeError) as caught:
            plan.make_plan(recipe, gpu_memory=24e9)
        return str(caught.value)

    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 9}))
    assert "model.path: " in refusal()
    assert "embeddings for 9" in refusal()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "tokenizer.json is a pointer of Git LFS" in refusal()
    (folder / "tokenizer.json").write_text('{"version": "1.0", "added_tokens": []}')
    assert f"the tokenizer in {folder} cannot be read (Exception: Model missing" in refusal()
    (folder / "tokenizer.json").unlink()
    (folder / "spiece.model").write_bytes(b"no pieces")
    assert f"the tokenizer in {folder} cannot be read (RuntimeError: " in refusal()


# --- training ---------------------------------------------------------------------------


@pytest.fixture
def small_host(monkeypatch) -> None:
    monkeypatch.setattr(machines, "host_memory", lambda: 0.1e9)


def test_training_refuses_what_cannot_fit(tmp_path, tiny_llama, capsys, small_host):
    path = write_recipe(tmp_path, tiny_llama)
    with pytest.raises(typer.Exit) as stop:
        cli.train_with("single", path, overrides=None)
    assert stop.value.exit_code == 2
    said = capsys.readouterr().err
    for text in ("memory: the run needs about", "allowed: 0.10 GB", "--force to try"):
        assert text in said
    assert not (tmp_path / "runs").exists()


def test_a_model_of_unknown_sizes_is_said_to_be_unchecked(config_only):
    path = config_only.parent / "llama2_7b" / "config.json"
    path.write_text(json.dumps(LLAMA2_7B | {"model_type": "rwkv"}))
    recipe = load_recipe(config_only)[0]
    task = task_from(recipe.task)
    prepared = Prepared(recipe, task, Splits(task, [], [], []), None, None)
    note = plan.check_memory(prepared, "single")
    assert note is not None
    assert note.startswith("memory is not checked: model: no plan for a model of type 'rwkv'")


def test_ranks_of_one_machine_share_its_memory(monkeypatch, small_host):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("WORLD_SIZE", "6")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    machine = machines.find_launched()
    assert (machine.ranks, machine.memory) == (6, 0.05e9)


def test_force_tries_it(tmp_path, tiny_llama, small_host):
    path = write_recipe(tmp_path, tiny_llama, steps=1)
    cli.train_with("single", path, overrides=None, force=True)
    assert (tmp_path / "runs" / "run" / "result.json").exists()


def test_an_absurd_batch_is_refused_on_any_machine(tmp_path, tiny_llama):
    """By the real memory of this machine: ten million examples in a pass."""
    path = write_recipe(tmp_path, tiny_llama)
    process = start(path, "train.batch_size=10000000")
    process.join(120)
    assert process.exitcode == 2
    assert "train.micro_batch_size:" in Path(f"{path}.err").read_text()


def test_the_peak_is_this_process_s_own():
    """Linux's `ru_maxrss` counts what the parent held when it started the process."""
    child = "from accept_llm.runs.result import peak_memory; print(peak_memory()['resident'])"
    parent = (
        "import subprocess, sys\n"
        "held = bytearray(b'1') * 2_000_000_000\n"
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    )
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True)
    assert 50e6 < int(done.stdout) < 1.5e9, done.stderr


def test_the_peak_of_a_run(tmp_path, tiny_llama):
    """On a model of nothing: what a process takes by itself."""
    path = write_recipe(tmp_path, tiny_llama, steps=2)
    done = accept_llm("train", path, cwd=tmp_path)
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "runs" / "run" / "result.json").read_text())
    made = plan.make_plan(load_recipe(path)[0])
    peak = result["peak_memory_per_rank"][0]["resident"]
    assert made.chosen.needs.total == pytest.approx(peak, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["single", "fsdp2"])
@pytest.mark.parametrize("recipe", ["smollm2_sst2", "flan_t5_small_sst2"])
def test_the_plan_is_within_15_percent_of_the_peak(models_dir, data_dir, recipe, engine):
    planned, measured = compare(recipe, engine, steps=12)
    assert planned == pytest.approx(measured, rel=0.15)
