"""One adapter under every engine: training, and the predictions of what was trained, on two CPU
processes against one process."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import torch
from support.parity import assert_same_training, trained
from support.runs import (
    ENVIRONMENT,
    ROOT,
    finish,
    launch_command,
    recipe_data,
    result,
    start,
    start_ranks,
    wait_for_step,
)

from accept_llm.recipe.recipe import dump_recipe, parse_recipe

NEEDS_DEEPSPEED = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="deepspeed is not installed (the extra `deepspeed`)"
)
SHARDED = ["ddp", "fsdp2", pytest.param("zero3", marks=NEEDS_DEEPSPEED)]
STEPS = 20
# 24 rows in batches of 5, and each rank's part in micro-batches of 2: nothing divides anything.
TRAIN = {"steps": STEPS, "eval_every": 5, "warmup_steps": 3, "micro_batch_size": 2}
HEADS = {"llama": {"kind": "linear"}, "t5": {"kind": "choice"}}


@pytest.fixture(scope="module", params=["llama", "t5"])
def recipe(request, tmp_path_factory, tiny_llama, tiny_t5) -> Path:
    model = tiny_llama if request.param == "llama" else tiny_t5
    folder = tmp_path_factory.mktemp(request.param)
    data = recipe_data(folder, model, **TRAIN)
    data["head"] = HEADS[request.param]
    if request.param == "t5":
        data["head"]["words"] = {"bad": "no", "good": "yes kettle"}
    path = folder / "recipe_in.yaml"
    path.write_text(dump_recipe(parse_recipe(data)))
    return path


@pytest.mark.parametrize("kind", SHARDED)
def test_training_equals_one_process(recipe, kind):
    folder, one = trained(recipe, kind), trained(recipe, "single")
    assert_same_training(folder, one, rel=1e-4)
    (whole,), held = (result(f)["frozen_bytes_per_rank"] for f in (one, folder))
    share = whole if kind == "ddp" else whole / 2
    assert held == pytest.approx([share, share], rel=0.01)


def test_int8_in_shards_equals_int8_in_one_process(recipe):
    folders = [trained(recipe, kind, "model.quantization=int8") for kind in ("fsdp2", "single")]
    assert_same_training(*folders, rel=1e-3)
    (whole,), held = (result(f)["frozen_bytes_per_rank"] for f in reversed(folders))
    assert held == pytest.approx([whole / 2, whole / 2], rel=0.05)  # some widths are not even
    (wide,) = result(trained(recipe, "single"))["frozen_bytes_per_rank"]
    assert whole < 0.31 * wide  # fp32


def logits(path: str, kind: str, adapters: list[str], out: str, rank: dict[str, str]) -> None:
    """One process of an engine: the scores of the test rows by each adapter."""
    torch.set_num_threads(1)
    os.environ |= rank
    from accept_llm.checks import prepare
    from accept_llm.engines.base import opened_engine
    from accept_llm.recipe.recipe import read_recipe
    from accept_llm.training.evaluate import predict
    from accept_llm.training.loading import load

    recipe, scores = read_recipe(Path(path)), {}
    prepared = prepare(recipe, kind)
    with opened_engine(kind) as engine:
        for folder in adapters:
            loaded = load(prepared, engine, adapter=Path(folder) / "prompt")
            found = predict(loaded.model, loaded.encode(prepared.rows.test), batch_size=4)
            scores[folder] = [p.scores for p in found]
    if rank["RANK"] == "0":
        Path(out).write_text(json.dumps(scores))


def scored(path: Path, kind: str, adapters: list[Path]) -> dict[str, list[list[float]]]:
    out, count = path.parent / f"scores_{kind}.json", 1 if kind == "single" else 2
    arguments = (kind, [str(folder) for folder in adapters], str(out))
    ranks = start_ranks(path, count=count, target=logits, arguments=arguments)
    assert finish(*ranks) == [0] * count
    return json.loads(out.read_text())


@NEEDS_DEEPSPEED
def test_every_adapter_gives_the_same_logits_under_every_engine(recipe):
    kinds = ["single", "ddp", "fsdp2", "zero3"]
    adapters = [trained(recipe, kind) for kind in kinds]
    adapters.append(trained(recipe, "single", "model.quantization=int8"))
    want = scored(recipe, "single", adapters)
    for kind in kinds[1:]:
        got = scored(recipe, kind, adapters)
        for folder in map(str, adapters):
            torch.testing.assert_close(
                torch.tensor(got[folder]), torch.tensor(want[folder]), rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("recipe", ["llama"], indirect=True)
@pytest.mark.parametrize("launcher", ["ddp", pytest.param("zero3", marks=NEEDS_DEEPSPEED)])
def test_launchers(recipe, launcher):
    command = launch_command(recipe, f"name=launched_{launcher}", launcher=launcher)
    subprocess.run(command, env=ENVIRONMENT, check=True, timeout=180, capture_output=True)
    launched = recipe.parent / "runs" / f"launched_{launcher}"
    assert_same_training(launched, trained(recipe, "single"), rel=1e-4)


@NEEDS_DEEPSPEED
@pytest.mark.parametrize("recipe", ["llama"], indirect=True)
def test_the_deepspeed_launcher(recipe):
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "2"]
    command += [str(ROOT / "launchers" / "zero3.py"), str(recipe), "name=by_deepspeed"]
    ours = ENVIRONMENT | {"DS_ACCELERATOR": "cpu"}
    subprocess.run(command, env=ours, check=True, timeout=180, capture_output=True)
    launched = recipe.parent / "runs" / "by_deepspeed"
    assert_same_training(launched, trained(recipe, "single"), rel=1e-4)


@pytest.mark.parametrize("recipe", ["llama"], indirect=True)
def test_a_rank_that_dies_stops_the_others_and_three_go_on(recipe):
    """Within 60 s, with a message; --resume then ends where one process does."""
    longer = ("train.steps=60", "train.save_every=5")
    folder = recipe.parent / "runs" / "dies"
    command = launch_command(recipe, "name=dies", *longer)
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=ENVIRONMENT, **pipes) as launcher:
        assert wait_for_step(folder, 12)
        victim = next(p for p in ranks_below(launcher.pid) if p.environ()["RANK"] == "1")
        others = [p for p in ranks_below(launcher.pid) if p != victim]
        victim.kill()
        _, said = launcher.communicate(timeout=60)
    assert launcher.returncode != 0
    assert "SIGKILL" in said
    assert psutil.wait_procs(others, timeout=5)[1] == []
    assert not (folder / "result.json").exists()
    assert finish(*start_ranks(recipe, "name=dies", *longer, count=3, resume=True)) == [0] * 3
    assert finish(start(recipe, "name=whole", *longer)) == [0]
    assert_same_training(folder, recipe.parent / "runs" / "whole", rel=1e-4)


def ranks_below(launcher: int) -> list[psutil.Process]:
    below = psutil.Process(launcher).children(recursive=True)
    return [process for process in below if "RANK" in process.environ()]


@pytest.mark.parametrize("recipe", ["llama"], indirect=True)
@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        (
            "fsdp2",
            ["model.quantization=bnb-int8"],
            "allowed under fsdp2: null, int8",
        ),
        ("zero3", ["model.quantization=int8"], "got 'int8'; allowed under zero3: null"),
        ("ddp", ["engine.kind=fsdp2"], "this launcher runs 'ddp'; use: accelerate launch"),
    ],
)
def test_what_an_engine_cannot_hold_is_refused(recipe, kind, changes, said):
    before = set((recipe.parent / "runs").glob("*"))
    name = "name=refused"
    assert finish(*start_ranks(recipe, name, *changes, count=2, kind=kind)) == [2, 2]
    assert said in Path(f"{recipe}.err").read_text()
    assert set((recipe.parent / "runs").glob("*")) == before
