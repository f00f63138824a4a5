"""What cannot work is said in time, by the field, before anything is trained."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from support.runs import recipe_data
from swarms import Ended, Servers, Started, client, on_petals, write

from accept_llm.models.folder import check_folder
from accept_llm.swarm.folder import swarm_name

pytestmark = pytest.mark.swarm

SECONDS = 30


@pytest.fixture(scope="module")
def address(own_stories: Path, kept_servers: Servers) -> str:
    """A whole swarm of stories260k in fp32."""
    return kept_servers.chain(own_stories, "0:5")


def refused(started: Started, *texts: str) -> str:
    ended: Ended = started.wait(SECONDS)
    assert ended.code == 2, ended.err
    assert "Traceback" not in ended.err
    for text in texts:
        assert text in ended.err, ended.err
    return ended.err


def ask(folder: Path, model: Path, address: str, *more: str, **engine: Any) -> Started:
    recipe = write(recipe_data(folder, model), folder / "recipe.yaml", address, **engine)
    return client(recipe, *more, log=folder / "client")


def test_an_address_where_nobody_listens(tmp_path: Path, own_stories: Path, address: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    wrong = f"/ip4/127.0.0.1/tcp/{port}/p2p/{address.rsplit('/', 1)[1]}"
    refused(ask(tmp_path, own_stories, wrong), "engine.peers", wrong, "nobody answers")


def test_an_address_of_somebody_else(tmp_path: Path, own_stories: Path, address: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port, peer = other.getsockname()[1], address.rsplit("/", 1)[1]
        wrong = f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer}"
        refused(ask(tmp_path, own_stories, wrong), "engine.peers", wrong)


def test_an_id_that_the_server_does_not_have(
    tmp_path: Path, own_stories: Path, address: str
) -> None:
    place, peer = address.rsplit("/", 1)
    wrong = f"{place}/{peer[:-3]}{'abc' if peer[-3:] != 'abc' else 'abd'}"
    refused(ask(tmp_path, own_stories, wrong), "engine.peers", wrong)


def test_another_model_s_swarm(
    tmp_path: Path, own_stories: Path, tiny_llama: Path, address: str
) -> None:
    info, _ = check_folder(own_stories)
    assert info is not None
    refused(
        ask(tmp_path, tiny_llama, address),
        *("engine.peers", "does not serve", tiny_llama.name, swarm_name(info)),
    )


def test_blocks_that_nobody_serves(tmp_path: Path, own_stories: Path, servers: Servers) -> None:
    address = servers.start(own_stories, "0:3").address()
    refused(ask(tmp_path, own_stories, address), "nobody serves the blocks 3:5", "--blocks 3:5")


def test_a_server_of_another_dtype(tmp_path: Path, own_stories: Path, address: str) -> None:
    refused(
        ask(tmp_path, own_stories, address, "model.dtype=bf16"),
        *("model.dtype: got 'bf16'", "float32", "0:5"),
    )


def test_weights_that_the_servers_do_not_have(
    tmp_path: Path, own_stories: Path, address: str
) -> None:
    refused(
        ask(tmp_path, own_stories, address, "model.quantization=bnb-int8"),
        "model.quantization: got",
    )


def test_a_wrong_padding_side(tmp_path: Path, own_stories: Path, address: str) -> None:
    started = ask(tmp_path, own_stories, address, padding_side="left")
    refused(started, "engine.padding_side: got 'left'; allowed: right")


def test_an_encoder_decoder(tmp_path: Path, tiny_t5: Path, address: str) -> None:
    refused(ask(tmp_path, tiny_t5, address), "engine.kind: got 'petals'", "'t5'", "allowed: llama")


def test_what_servers_do_not_do(tmp_path: Path, own_stories: Path, address: str) -> None:
    more = ("model.checkpointing=true", "model.layout=packed")
    refused(ask(tmp_path, own_stories, address, *more), "model.checkpointing", "model.layout")


def test_no_address(tmp_path: Path, own_stories: Path) -> None:
    refused(ask(tmp_path, own_stories, "", peers=[]), "engine.peers: got none")


def test_other_rotary_settings_under_the_same_weights(
    tmp_path: Path, own_stories: Path, servers: Servers
) -> None:
    """What 4.33 would make of a config that it reads without `rope_parameters`."""
    theirs = tmp_path / "theirs"
    shutil.copytree(own_stories, theirs)
    config = json.loads((theirs / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 50_000.0
    (theirs / "config.json").write_text(json.dumps(config))
    ours = tmp_path / "ours"
    shutil.copytree(own_stories, ours)
    recorded = Started(*_main("swarm", "record", str(ours)), log=tmp_path / "record").wait(SECONDS)
    assert recorded.code == 0, recorded.err
    address = servers.start(theirs, "0:5").address()
    refused(ask(tmp_path, ours, address), "the swarm's states differ", "rotary")


def _main(*arguments: str) -> tuple[str, ...]:
    import sys

    return (sys.executable, "-m", "accept_llm", *arguments)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--blocks", "3:9"), "--blocks: got '3:9'"),
        (("--weights", "int3"), "--weights: got 'int3'"),
        (("--dtype", "fp16"), "--dtype: got 'fp16'"),
    ],
)
def test_a_server_says_what_it_cannot_do(
    tmp_path: Path, own_stories: Path, options: tuple[str, ...], says: str
) -> None:
    serve = ("-m", "accept_llm", "swarm", "serve", own_stories, *options)
    refused(on_petals(*serve, log=tmp_path / "server"), says)


def test_status_says_who_serves_what(tmp_path: Path, own_stories: Path, address: str) -> None:
    ended = on_petals(
        *("-m", "accept_llm", "swarm", "status", "--peers", address), log=tmp_path / "status"
    ).wait(SECONDS)
    assert ended.code == 0, ended.err
    assert "5 blocks, complete" in ended.out
    assert f"0:5  {address.rsplit('/', 1)[1]}  float32" in ended.out
