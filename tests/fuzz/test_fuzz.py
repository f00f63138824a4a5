"""Damaged recipes, rows, adapters and models through the real commands: exit code 0, 1 or 2, one
message, nothing lost, and bounds of time and memory.

A case is made from its sort, a seed and its number. ACCEPT_FUZZ_SEED draws others, and
ACCEPT_FUZZ_CASE="adapters 0 17" (or "0 17,23") runs it again; the folder of a case that fails is
kept.
"""

import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support.fuzz.cases import Recipes, World, describe, make_case
from support.fuzz.forks import Server
from support.fuzz.rules import broken_rules, contents
from support.fuzz.world import make_world

SEED = int(os.environ.get("ACCEPT_FUZZ_SEED", "0"))
ONE = os.environ.get("ACCEPT_FUZZ_CASE")
SORTS = ("recipes", "data", "adapters", "models")
FEW, MANY = 50, 500  # of each sort

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits are those of Linux")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = Server(tmp_path_factory.mktemp("server"))
    yield found
    found.stop()


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, server: Server, tiny_llama: Path, tiny_t5: Path
) -> World:
    folder = tmp_path_factory.mktemp("world")
    return make_world(folder, {"llama": tiny_llama, "t5": tiny_t5}, server=server)


def run_cases(
    sort: str, numbers: Sequence[int], *, world: World, server: Server, folder: Path, seed: int
) -> list[str]:
    """What went wrong in the cases of a sort; the folders of the others are removed."""
    recipes = Recipes(world, seed, count=max(numbers) + 1) if sort == "recipes" else None
    found, codes, seconds = [], Counter[tuple[str, int]](), 0.0
    for number in numbers:
        whole = folder / f"{sort}-{seed}-{number}"
        own = whole / "work"  # so that `..` is the case's own too
        own.mkdir(parents=True)
        case = make_case(sort, own, world=world, place=(seed, number), recipes=recipes)
        wrong = []
        for command in case.commands:
            before = contents(whole)
            ended = server.run(command, own, given=case.given)
            codes[command[0], ended.code] += 1
            seconds += ended.cpu_seconds
            lines = broken_rules(case, command, ended, folder=own, before=before)
            wrong += [f"{command[0]}: {line}" for line in lines]
            wrong += [ended.err[-1500:]] if lines else []
        if wrong:
            how = f'ACCEPT_FUZZ_CASE="{sort} {seed} {number}"'
            found.append("\n    ".join((f"{how}: {describe(case)}", *wrong, f"kept: {own}")))
        else:
            shutil.rmtree(whole)
    print(f"{sort}: {dict(sorted(codes.items()))}, {seconds:.0f} s of CPU time")
    assert {code for _, code in codes} >= {0, 2} or ONE, "all were refused, or none was"
    return found


def check(sort: str, count: int, *, world: World, server: Server, folder: Path) -> None:
    """Runs so many cases of a sort, or the one that was asked for."""
    numbers: Sequence[int] = range(count)
    seed = SEED
    if ONE:
        asked, place, number = ONE.split()
        if asked != sort:
            pytest.skip("another case was asked for")
        numbers, seed = [int(n) for n in number.split(",")], int(place)
    kept = contents(world.folder)
    found = run_cases(sort, numbers, world=world, server=server, folder=folder, seed=seed)
    assert not found, f"{len(found)} of {len(numbers)} cases\n" + "\n\n".join(found)
    assert contents(world.folder) == kept


@pytest.mark.parametrize("sort", SORTS)
def test_some_cases(sort: str, world: World, server: Server, tmp_path: Path) -> None:
    check(sort, FEW, world=world, server=server, folder=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("sort", SORTS)
def test_many_cases(sort: str, world: World, server: Server, tmp_path: Path) -> None:
    check(sort, MANY, world=world, server=server, folder=tmp_path)
