"""Servers that die, come back, answer nonsense, or are slow."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file
from support.runs import losses, recipe_data
from swarms import Servers, Started, alone, client, wait_for_step, write

pytestmark = pytest.mark.swarm

STEPS = 20
WAIT = 15  # s, of the recipe


@pytest.fixture(scope="module")
def reference(own_stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a recipe, and its run by the single engine."""
    folder = tmp_path_factory.mktemp("faults")
    recipe = write(_data(folder, own_stories), folder / "single.yaml", "/ip4/1.2.3.4/tcp/1/p2p/Qm")
    ended = alone(recipe, "name=single", log=folder / "single").wait()
    assert ended.code == 0, ended.err
    return folder


def _data(folder: Path, model: Path) -> dict[str, Any]:
    return recipe_data(folder, model, steps=STEPS, eval_every=10, save_every=5)


def _train(
    folder: Path, model: Path, address: str, name: str, *more: str, **engine: Any
) -> Started:
    recipe = write(_data(folder, model), folder / f"{name}.yaml", address, wait=WAIT, **engine)
    return client(recipe, f"name={name}", *more, log=folder / name)


def test_a_server_that_dies_is_routed_around(
    reference: Path, own_stories: Path, servers: Servers
) -> None:
    """One of two servers of the same blocks is killed with -9 in the middle of the run."""
    address, twins = servers.twins(own_stories)
    lost = twins[0].peer
    run = reference / "runs" / "one"
    training = _train(reference, own_stories, address, "one")
    wait_for_step(run, 5, of=training)
    twins[0].kill()
    ended = training.wait()
    assert ended.code == 0, ended.err
    assert losses(run) == pytest.approx(losses(reference / "runs" / "single"), abs=1e-3)
    assert f"lost server {lost} (blocks 3:5)" in ended.err


def test_blocks_that_nobody_serves_stop_the_run_until_they_are_back(
    reference: Path, own_stories: Path, servers: Servers
) -> None:
    """Both of them: it stops in time with a message, and --resume ends as if nothing had been."""
    address, twins = servers.twins(own_stories)
    run = reference / "runs" / "both"
    training = _train(reference, own_stories, address, "both")
    wait_for_step(run, 7, of=training)
    done = training.wait
    for twin in twins:
        twin.kill()
    ended = done(WAIT + 30)
    assert ended.code == 1, ended.err
    assert "nobody serves the blocks 3:5" in ended.err
    assert f"for {WAIT} s (engine.wait)" in ended.err
    assert "--resume" in ended.err
    assert "Traceback" not in ended.err

    servers.start(own_stories, "3:5", "--peers", address).address()
    ended = _train(reference, own_stories, address, "both", "--resume").wait()
    assert ended.code == 0, ended.err
    single = reference / "runs" / "single"
    assert losses(run) == pytest.approx(losses(single), abs=1e-3)
    ours, theirs = (load_file(folder / "prompt/prompt.safetensors") for folder in (run, single))
    for name, tensor in theirs.items():
        assert (ours[name] - tensor).abs().max() < 1e-3, name


def test_a_server_that_comes_back_in_time_is_waited_for(
    reference: Path, own_stories: Path, servers: Servers
) -> None:
    address = servers.chain(own_stories, "0:3", "3:5")
    run = reference / "runs" / "back"
    recipe = write(_data(reference, own_stories), reference / "back.yaml", address, wait=60)
    training = client(recipe, "name=back", log=reference / "back")
    wait_for_step(run, 5, of=training)
    servers.all[1].kill()
    servers.start(own_stories, "3:5", "--peers", address).address()
    ended = training.wait()
    assert ended.code == 0, ended.err
    assert losses(run) == pytest.approx(losses(reference / "runs" / "single"), abs=1e-3)


@pytest.mark.parametrize(("fault", "says"), [("nan", "is not finite"), ("shape", "has the shape")])
def test_a_server_that_answers_nonsense_is_named_and_not_trained_on(
    reference: Path, own_stories: Path, servers: Servers, fault: str, says: str
) -> None:
    address, (good, bad) = servers.twins(own_stories, faulty=fault)
    run = reference / "runs" / fault
    ended = _train(reference, own_stories, address, fault).wait()
    assert ended.code == 0, ended.err
    assert losses(run) == pytest.approx(losses(reference / "runs" / "single"), abs=1e-3)
    assert f"lost server {bad.peer} (blocks 3:5): its answer {says}" in ended.err

    if fault == "shape":  # once is enough of what follows
        return
    good.kill()  # and where there is no other, nothing is trained at all
    recipe = write(_data(reference, own_stories), reference / "only.yaml", address, wait=2)
    ended = client(recipe, f"name={fault}-only", log=reference / "only").wait()
    assert ended.code == 1
    assert says in ended.err
    assert not (reference / "runs" / f"{fault}-only" / "result.json").exists()


def test_a_killed_client_leaves_no_process(
    reference: Path, own_stories: Path, servers: Servers
) -> None:
    address = servers.start(own_stories, "0:5").address()
    training = _train(reference, own_stories, address, "killed")
    wait_for_step(reference / "runs" / "killed", 2, of=training)
    below = psutil.Process(training.process.pid).children(recursive=True)
    assert any("p2pd" in process.name() for process in below)
    training.process.kill()
    training.process.wait()
    _, alive = psutil.wait_procs(below, timeout=5)
    assert alive == []


def test_a_server_that_hangs_costs_one_timeout(
    reference: Path, own_stories: Path, servers: Servers
) -> None:
    """It answers nothing and keeps its connections: what waits for it does not wait in turn."""
    address, (_, hung) = servers.twins(own_stories)
    more = {"request_timeout": 4, "micro_batch_tokens": 24}
    training = _train(reference, own_stories, address, "hung", **more)
    wait_for_step(reference / "runs" / "hung", 5, of=training)
    os.killpg(hung.process.pid, signal.SIGSTOP)
    ended = training.wait(60)
    assert ended.code == 0, ended.err
    single = losses(reference / "runs" / "single")
    assert losses(reference / "runs" / "hung") == pytest.approx(single, abs=1e-3)
    assert f"lost server {hung.peer} (blocks 3:5): TimeoutError" in ended.err


def test_a_slow_server_shows_in_the_log(
    reference: Path, own_stories: Path, servers: Servers
) -> None:
    address, (_, slow) = servers.twins(own_stories, faulty="slow")
    ended = _train(reference, own_stories, address, "slow", "train.steps=8").wait()
    assert ended.code == 0, ended.err
    assert f"slow server {slow.peer}" in ended.err
    assert json.loads((reference / "runs/slow/result.json").read_text())["steps"] == 8
