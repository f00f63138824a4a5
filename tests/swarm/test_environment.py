"""The second environment: Petals with a newer hivemind, tokenizers of transformers 5, and the
package itself on transformers 4.33."""

import json
import sys
from pathlib import Path

import pytest
from support.runs import ROOT
from swarms import Started, on_petals

from accept_llm.swarm.bridge import MOVED

pytestmark = pytest.mark.swarm

# Imports every module of Petals as its source does, and says what it takes from hivemind.
FIND_MOVED = """
import ast, importlib, json, pathlib
from importlib.util import find_spec
root = pathlib.Path(find_spec("petals").origin).parent
import hivemind
missing = set()
for path in root.rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module == "hivemind":
            names = [alias.name for alias in node.names]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names = [node.attr] if node.value.id == "hivemind" else []
        missing |= {name for name in names if not hasattr(hivemind, name)}
from accept_llm.swarm.bridge import MOVED, import_petals
petals = import_petals()
homes = {home: importlib.import_module(home) for home in MOVED}
same = all(
    getattr(hivemind, name) is getattr(homes[home], name)
    for home, names in MOVED.items() for name in names
)
print(json.dumps([sorted(missing), same, petals.__version__]))
"""

TOKENIZE = """
import json, sys
from pathlib import Path
from accept_llm.models.tokenizer import load_tokenizer
texts = json.loads(Path(sys.argv[2]).read_text())
tokenizer = load_tokenizer(Path(sys.argv[1]))
found = [tokenizer(t, return_offsets_mapping=True) for t in texts]
special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
pairs = [[f["input_ids"], [list(o) for o in f["offset_mapping"]]] for f in found]
decoded = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids, _ in pairs]
print(json.dumps([special, pairs, decoded]))
"""

TEXTS = [
    *("hide new secretions from the parental units", " it 's  slow -- very , very slow . "),
    *("naïve café — “quoted” 日本語 😀", "In 1999, 12345 people\n\nsaid\tno.", "", "a", "  "),
    *("sst2 sentence: contains no wit , only labored gags", "x yes", "x no"),
]


def test_the_bridge_maps_what_petals_asks_for_and_nothing_else(tmp_path: Path) -> None:
    ended = on_petals("-c", FIND_MOVED, log=tmp_path / "bridge").wait()
    assert ended.code == 0, ended.err
    missing, same, version = json.loads(ended.out)
    assert sorted(name for names in MOVED.values() for name in names) == missing
    assert same
    assert version == "2.2.0.post1"


@pytest.mark.parametrize("model", ["own_stories", "saved_again", "tiny_llama", "smollm2"])
def test_tokens_are_those_of_transformers_5(
    request: pytest.FixtureRequest, tmp_path: Path, model: str
) -> None:
    folder = request.getfixturevalue(model)
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    arguments = ("-c", TOKENIZE, folder, tmp_path / "texts.json")
    started = on_petals(*arguments, log=tmp_path / "old")
    new = Started(sys.executable, *arguments, log=tmp_path / "new").wait()
    old = started.wait()
    assert new.code == 0, new.err
    assert old.code == 0, old.err
    assert json.loads(old.out) == json.loads(new.out)


@pytest.fixture
def saved_again(own_stories: Path, tmp_path: Path) -> Path:
    """The tokenizer of stories260k as transformers 5 saves it: a tokenizer.json."""
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(own_stories).save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/tokenizer.json").is_file()
    return tmp_path / "again"


# What needs neither a local model nor a GGUF file: the rest of the package is this.
CORE = "recipe tasks data methods/test_prompts.py test_layers.py test_storage.py".split()


def test_the_core_runs_on_the_old_transformers(tmp_path: Path) -> None:
    files = [str(ROOT / "tests" / name) for name in CORE]
    marks = "not slow and not gpu and not swarm"
    ended = on_petals("-m", "pytest", "-q", "-m", marks, *files, log=tmp_path / "core").wait(300)
    assert ended.code == 0, ended.out[-3000:]
    assert " passed" in ended.out


def test_the_single_engine_is_refused_there(tmp_path: Path) -> None:
    recipe = ROOT / "recipes/quickstart.yaml"
    ended = on_petals("-m", "accept_llm", "train", recipe, log=tmp_path / "train").wait()
    assert ended.code == 2
    assert "needs transformers 5" in ended.err
