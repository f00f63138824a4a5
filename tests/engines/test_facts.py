"""The table of engines: a row for each engine of a recipe, and what follows from the rows."""

from importlib import import_module

import pytest
from support.commands import ROOT

from accept_llm.engines.facts import ALONE, ENGINES, LOCAL, SHARDED, SWARM, facts_of
from accept_llm.recipe.engine import ENGINE_KINDS


def test_every_engine_of_a_recipe_has_a_row() -> None:
    assert set(ENGINES) == set(ENGINE_KINDS)
    assert {ALONE, SHARDED} <= set(LOCAL)
    assert SWARM not in LOCAL


def test_a_missing_row_is_said() -> None:
    with pytest.raises(AssertionError, match=r"engines/facts\.py has no row for 'fsdp3'; it has"):
        facts_of("fsdp3")


@pytest.mark.parametrize("kind", ENGINES)
def test_properties_of_every_row(kind: str) -> None:
    facts = ENGINES[kind]
    assert "RECIPE" in facts.command
    assert facts.has_ranks == facts.command.startswith("accelerate launch --num_processes N ")
    launcher = next(w for w in facts.command.split() if w.startswith("launchers/"))
    assert (ROOT / launcher).is_file()
    assert None in facts.quantizations
    assert facts.loads_whole == (facts.is_local and facts.gathers is None)
    if kind != SWARM:  # which needs Petals to be imported
        module, _, name = facts.place.rpartition(".")
        assert getattr(import_module(module), name).kind == kind
