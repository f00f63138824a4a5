"""Servers with bitsandbytes' weights: what they hold, and that a prompt can be trained on them."""

import re
from pathlib import Path

import pytest
from support.runs import losses, recipe_data
from swarms import Servers, alone, client, write

from accept_llm.swarm.local import LocalServer

pytestmark = pytest.mark.swarm


def held(server: LocalServer) -> float:
    """The MB of weights that a server says."""
    server.address()
    found = re.search(r"([\d.]+) MB of weights", server.log.read_text())
    assert found
    return float(found[1])


def test_int8_and_nf4_servers_hold_less(smollm2: Path, servers: Servers) -> None:
    plain, eight, four = (
        servers.start(smollm2, "0:4", "--dtype", "bf16", "--weights", weights)
        for weights in ("bf16", "int8", "nf4")
    )
    numbers = 4 * (576 * (576 + 192 + 192 + 576) + 3 * 576 * 1536 + 2 * 576)
    assert held(plain) == pytest.approx(2 * numbers / 1e6, abs=0.1)
    assert held(eight) <= 0.6 * held(plain)
    assert held(four) <= 0.35 * held(plain)


def test_a_prompt_is_trained_on_int8_servers(
    tmp_path: Path, own_stories: Path, servers: Servers
) -> None:
    first = servers.start(own_stories, "0:3", "--weights", "int8")
    address = first.address()
    servers.start(own_stories, "3:5", "--peers", address, "--weights", "int8").address()
    data = recipe_data(tmp_path, own_stories, steps=4, eval_every=4)
    data["model"]["quantization"] = "bnb-int8"
    recipe = write(data, tmp_path / "recipe.yaml", address)
    ended = client(recipe, "name=swarm", log=tmp_path / "client").wait()
    assert ended.code == 0, ended.err
    single = alone(recipe, "name=single", "model.quantization=null", log=tmp_path / "alone").wait()
    assert single.code == 0, single.err
    runs = tmp_path / "runs"
    assert losses(runs / "swarm") == pytest.approx(losses(runs / "single"), abs=0.1)
    assert losses(runs / "swarm") != losses(runs / "single")
