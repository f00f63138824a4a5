"""Broken recipes and inputs through the real command line: exit code 2, one clear message
that names the field, no traceback, and no wait where no weight is needed.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.commands import ROOT, accept_llm, refused, run_python
from support.runs import write_recipe
from support.training import CARD

from accept_llm.adapter.card import check_fits, describe_base
from accept_llm.cli.train import train_with
from accept_llm.errors import RecipeError
from accept_llm.models.find import inspect_model
from accept_llm.recipe.model import FolderModel, HubModel

TORCH = 30.0  # seconds of CPU time where an error can only show once torch is loaded


@pytest.fixture
def recipe(tmp_path: Path, tiny_llama: Path) -> Path:
    """A good recipe with its own three files of rows."""
    return write_recipe(tmp_path, tiny_llama)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """The folder of a finished run. Copy it before you change it."""
    folder = tmp_path_factory.mktemp("trained")
    train_with("single", write_recipe(folder, tiny_llama, steps=1), overrides=[])
    return folder / "runs/run"


@pytest.fixture
def run(tmp_path: Path, trained: Path) -> Path:
    """A copy of a finished run, to break."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# --- the text of a recipe ---------------------------------------------------------------

TEXTS = {
    "empty": ("", ["bad.yaml holds nothing; allowed: a mapping"]),
    "a list": ("- a\n- b\n", ["bad.yaml holds a list; allowed: a mapping"]),
    "not yaml": ("train: {steps: 5\nname", ["bad.yaml is not YAML: line 2, column 5: "]),
    "a tab": ("train:\n\tsteps: 5\n", ["is not YAML: line 2, column 1: ", "spaces, not tabs"]),
    "an impossible date": ("name: 2024-13-45\n", ["bad.yaml is not YAML: month must be in"]),
    "a python object": ("name: !!python/name:os.system x\n", ["is not YAML: line 1, column 7: "]),
    "doubled keys": (
        "train:\n  steps: 5\n  lr: {head: 1, head: 2}\n  steps: 6\n",
        [
            "train.steps: given twice (lines 2 and 4); allowed: once (in bad.yaml)",
            "train.lr.head: given twice (lines 3 and 3); allowed: once",
        ],
    ),
    "nothing that is needed": (
        "model: {kind: hub}\n",
        [
            "bad.yaml: 4 problems",
            *("model.id: missing", "task: missing", "method: missing", "train: missing"),
        ],
    ),
    "many mistakes": (
        """
        model: {kind: folder, path: x, dtyp: fp32}
        task: {kind: sst3, max_length: 10}
        method: {kind: accept, prepended: {subspace: 3}, added: {subspaces: 2, subdim: 8}}
        head: {kind: linear, bias: maybe}
        train: {steps: many, batch_size: no, lr: [1, 2], clip_norm: 3e-3, patience: 0}
        learning_rate: 3
        """,
        [
            "bad.yaml: 10 problems",
            "model.dtyp: unknown key for kind 'folder', did you mean 'dtype'? allowed: dtype,",
            "task.kind: got 'sst3', did you mean 'sst2'? allowed: sst2, cola,",
            "method.prepended.subspace: unknown key, did you mean 'subspaces'?",
            "method.added.subdim: got 8 and subspaces 2; allowed: one of the two",
            "head.bias: got 'maybe'; allowed: true or false",
            "train.steps: got 'many'; allowed: a whole number",
            "train.batch_size: got False; allowed: a number (YAML reads yes, no, on and off",
            "train.lr: got [1, 2]; allowed: a number of at least 0, or a mapping",
            "train.patience: got 0; allowed: at least 1",
            "learning_rate: unknown key; allowed: name, output_dir, model,",
        ],
    ),
    "a file task": (
        """
        model: [folder]
        task: {kind: file, train: a.csv, text: [a, b], label: a, labels: [x, x], max_length: 50}
        method: {kind: accept, length: 80}
        train: {steps: 5, batch_size: 4, micro_batch_size: 5}
        """,
        [
            "bad.yaml: 4 problems",
            "model: got ['folder']; allowed: a mapping with a kind (hub, folder, gguf)",
            "task.label: got 'a'; allowed: a column not in task.text",
            "task.labels: got ['x', 'x']; allowed: each of them once",
            "train.micro_batch_size: got 5; allowed: at most train.batch_size (4)",
        ],
    ),
}


@pytest.mark.parametrize(("text", "said"), TEXTS.values(), ids=TEXTS)
def test_recipe_texts(tmp_path: Path, text: str, said: list[str]) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    refused(accept_llm("validate", "bad.yaml", cwd=tmp_path), *said)


def test_recipes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("name: caf\xe9\n".encode("latin-1"))
    said = refused(accept_llm("train", "latin.yaml", cwd=tmp_path), "is not UTF-8 text (byte 9 is")
    assert said.count("\n") == 1
    refused(accept_llm("train", ".", cwd=tmp_path), "recipe: got ., which is a folder; allowed: a")
    said = "recipe: got latn.yaml, which does not exist, did you mean 'latin.yaml'? allowed: a YAML"
    refused(accept_llm("train", "latn.yaml", cwd=tmp_path), said)


def test_validate_reports_every_recipe(tmp_path: Path, recipe: Path) -> None:
    (tmp_path / "a.yaml").write_text("nme: x")
    (tmp_path / "b.yaml").write_text("- 1")
    outcome = accept_llm("validate", "a.yaml", recipe, "b.yaml", "c.yaml", cwd=tmp_path)
    assert outcome.code == 2
    assert outcome.out == f"{recipe}: ok\n"
    errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert [line.split()[1:3] for line in errors] == [
        ["a.yaml:", "5"],
        ["recipe:", "b.yaml"],
        ["recipe:", "got"],
    ]
    assert "nme: unknown key, did you mean 'name'?" in outcome.err
    assert "Traceback" not in outcome.err


# --- values, data and sizes: overrides of a good recipe ---------------------------------

OVERRIDES = {
    "unknown key": (["train.stps=5"], ["train.stps: unknown key, did you mean 'steps'?"]),
    "unknown section": (["methd.kind=pt"], ["methd: unknown key, did you mean 'method'?"]),
    "malformed": (["steps", "=3", "a..b=1"], ["got 'steps'; allowed: a.b=c", "'=3'", "'a..b=1'"]),
    "into a value": (["task.kind.x=1"], ["override: got 'task.kind.x=1', but task.kind is 'file'"]),
    "not yaml": (["name=a: b: c"], ["override: got 'name=a: b: c', whose value is not YAML"]),
    "both at once": (
        ["train", "train.steps=0", "model.kind=huub"],
        ["override: got 'train'", "train.steps: got 0", "model.kind: got 'huub', did you mean"],
    ),
    "budget": (["method.length=12"], ["method.length: got 12; allowed: less than method.budget"]),
    "short input": (["task.max_length=5"], ["task.max_length: got 5; allowed: at least the prom"]),
    "no data file": (
        ["task.train=gone.jsonl"],
        ["task.train: got gone.jsonl, which does not exist; allowed: an existing file"],
    ),
    "data and model": (
        ["task.test=gone.csv", "model.path=gone"],
        [
            "task.test: got gone.csv",
            "model.path: gone does not exist",
        ],
    ),
    "no data folder": (
        ["task={kind: rte, dir: gone}"],
        ["task.dir: got 'gone', but gone/rte/train.parquet does not exist; allowed: a folder with"],
    ),
    "unknown column": (["task.text=[revew]"], ["task.text: got column 'revew', did you mean 'rev"]),
    "one label too few": (
        ["task.labels=[only, two]", "task.label=review"],
        ["task.label: got 'review'; allowed: a column not in task.text"],
    ),
    "too many shots": (["task.shots=99"], ["task.shots: got 99; allowed: at most 24, the train"]),
    "positions": (
        ["task.max_length=507"],
        ["task.max_length: got 507 with 6 prompt tokens; allowed: at most 512 positions in all"],
    ),
    "subspaces": (
        ["method.prepended.subspaces=65"],
        ["method.prepended.subspaces: got 65; allowed: at most the model's hidden size (64)"],
    ),
    "no codeword": (
        ["method.added.subspaces=64"],
        ["method.added.subspaces: got 64; allowed: fewer, or a larger method.budget: one codeword"],
    ),
    "words for a score": (
        ["task={kind: stsb}", "head.kind=label_words"],
        ["head.kind: got 'label_words'; allowed for stsb (its answers are scores): linear,"],
    ),
    "a class for a text": (
        ["task={kind: squad}", "head.kind=choice"],
        ["head.kind: got 'choice'; allowed for squad (its answers are texts): generate"],
    ),
    "a text for a class": (
        ["task={kind: rte}", "head={kind: generate, num_beams: 0}", "head.max_new_token=3"],
        ["head.num_beams: got 0; allowed: at least 1", "did you mean 'max_new_tokens'?"],
    ),
    "a writer of classes": (
        ["task={kind: rte}", "head.kind=generate"],
        ["head.kind: got 'generate'; allowed for rte (its answers are classes): linear,"],
    ),
    "no room to write": (
        ["task={kind: squad, max_length: 480, dir: nowhere}", "head={kind: generate}"],
        [
            "nowhere/squad/train.parquet does not exist",
            "task.max_length: got 480 with 6 prompt tokens and 32 of an answer; allowed: at most",
        ],
    ),
    "a choice that is not there": (
        ["head={kind: choice, words: {goood: fine}, verbalizer: names}"],
        ["head.verbalizer: got 'names'; allowed: words, labels"],
    ),
    "fp16": (
        ["model.dtype=fp16"],
        ["model.dtype: got 'fp16'; allowed: bf16, fp32 (fp16 ends at 65,504, and T5's"],
    ),
    "a cue of nothing": (['task.cue=""'], ["task.cue: got ''; allowed: true, false, or a text"]),
    "two sizes of a batch": (
        ["train.batch_size=3", "train.tokens_per_batch=400"],
        ["train.tokens_per_batch: got 400 and batch_size 3; allowed: one of the two"],
    ),
    "a batch without room": (
        ["train.batch_size=null", "train.tokens_per_batch=20"],
        ["train.tokens_per_batch: got 20; allowed: at least task.max_length (24)"],
    ),
    "no bucket": (["train.bucket=0"], ["train.bucket: got 0; allowed: at least 1"]),
    "unknown label": (
        ["head={kind: label_words, words: {goood: fine}}"],
        ["head.words: got 'goood', did you mean 'good'? allowed: bad, good"],
    ),
    "other engine": (
        ["engine.kind=fsdp2"],
        ["engine.kind: got 'fsdp2', but this launcher runs 'single'; use: accelerate launch"],
    ),
    "output under a file": (["output_dir=recipe_in.yaml"], ["output_dir: got recipe_in.yaml, but"]),
}


@pytest.mark.parametrize(("overrides", "said"), OVERRIDES.values(), ids=OVERRIDES)
def test_overrides(recipe: Path, overrides: list[str], said: list[str]) -> None:
    refused(accept_llm("train", recipe, *overrides, cwd=recipe.parent), *said)
    assert not (recipe.parent / "runs").exists()


def test_label_words_that_begin_alike(recipe: Path) -> None:
    words = "head={kind: label_words, words: {good: bad luck}}"
    outcome = accept_llm("train", recipe, words, cwd=recipe.parent)
    refused(outcome, "head.words: got ['bad', 'bad luck']; allowed: words whose", seconds=TORCH)


ROWS = {
    "a foreign label": (
        '{"review": "a", "label": "great"}\n',
        "row 0 (from 0): label: got 'great'",
    ),
    "an empty split": ("", "validation.jsonl, which has no rows; allowed: at least one"),
    "not jsonl": ("{]\n", "cannot be read as JSONL (line 1: "),
    "a number as text": ('{"review": 3, "label": 0}', "row 0 (from 0): review: got 3; allowed:"),
}


@pytest.mark.parametrize(("rows", "said"), ROWS.values(), ids=ROWS)
def test_rows(recipe: Path, rows: str, said: str) -> None:
    (recipe.parent / "validation.jsonl").write_text(rows)
    refused(accept_llm("train", recipe, cwd=recipe.parent), "task.validation: ", said)


def test_no_hub(recipe: Path) -> None:
    nowhere = {
        "HF_HUB_OFFLINE": "0",
        "HF_DATASETS_OFFLINE": "0",
        "HF_ENDPOINT": "http://127.0.0.1:9",
    }
    said = [
        "task.kind: got 'rte', but nyu-mll/glue cannot be had from the Hub",
        "or as task.dir or",
    ]
    outcome = accept_llm("train", recipe, "task={kind: rte}", cwd=recipe.parent, env=nowhere)
    refused(outcome, *said)


# --- models -----------------------------------------------------------------------------


def cut(name: str, keep: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:keep])

    return change


def garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"<html>404: Not Found</html>" * 99)


def bart(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bart"}))


def unknown(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama9"}))


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


MODELS = {
    "no weights": (without("model.safetensors"), "has no weights; needed: model.safetensors"),
    "no config": (without("config.json"), "has no config.json; allowed: a folder as"),
    "no tokenizer": (without("tokenizer.json"), "has no tokenizer; needed: one of tokenizer.json"),
    "garbage": (garbage, "model.safetensors is cut or damaged"),
    "truncated": (cut("model.safetensors", 5000), "is cut or damaged: 5000 bytes"),
    "cut in its header": (cut("model.safetensors", 100), "is cut or damaged: 100 bytes"),
    "half a config": (cut("config.json", 60), "config.json is not JSON"),
    "another encoder-decoder": (
        bart,
        "got 'bart', an encoder-decoder; a causal LM or T5 is needed",
    ),
    "a type of another year": (unknown, "got model_type 'llama9'; allowed: a type that it knows"),
}


@pytest.mark.parametrize(("change", "said"), MODELS.values(), ids=MODELS)
def test_models(recipe: Path, tiny_llama: Path, change: Callable, said: str) -> None:
    folder = Path(shutil.copytree(tiny_llama, recipe.parent / "model"))
    change(folder)
    outcome = accept_llm("train", recipe, f"model.path={folder}", cwd=recipe.parent)
    refused(outcome, "model", said, seconds=TORCH if change is unknown else 4.0)
    assert "loading the model" not in outcome.out + outcome.err


def test_gguf_that_is_cut(recipe: Path) -> None:
    (recipe.parent / "m.gguf").write_bytes(b"GGUF\x03\0\0\0" + bytes([200]) + b"\0" * 15 + b"\x07")
    model = "model={kind: gguf, file: m.gguf}"
    refused(accept_llm("train", recipe, model, cwd=recipe.parent), "m.gguf is cut or damaged: 25")
    model = "model={kind: gguf, file: n.gguf}"
    refused(accept_llm("train", recipe, model, cwd=recipe.parent), "model.file: ", "n.gguf")


def test_model_that_is_not_here(recipe: Path) -> None:
    outcome = accept_llm("train", recipe, "model={kind: hub, id: a/b}", cwd=recipe.parent)
    refused(outcome, "model.id: 'a/b' is not on this machine and the Hub")


# --- runs -------------------------------------------------------------------------------


def test_a_run_is_never_overwritten(run: Path, tiny_llama: Path) -> None:
    recipe, before = write_recipe(run.parent, tiny_llama), contents(run)
    there = f"output_dir={run.parent}"
    refused(
        accept_llm("train", recipe, there, "task.train=gone.csv", cwd=run.parent),
        f"name: the run folder {run} exists and is left as it is; allowed: another name",
        "task.train: got gone.csv",
    )
    refused(
        accept_llm(
            *("train", recipe, there, "train.seed=1", "train.batch_size=4", "--resume"),
            cwd=run.parent,
        ),
        "resume: train.seed: was 42, is 1; allowed: the recipe of the run",
        "resume: train.batch_size: was 5, is 4",
    )
    assert contents(run) == before


def test_resume_of_no_run(recipe: Path) -> None:
    (recipe.parent / "runs/run").mkdir(parents=True)
    (recipe.parent / "runs/run/mine.txt").write_text("mine")
    outcome = accept_llm("train", recipe, "--resume", cwd=recipe.parent)
    refused(outcome, "runs/run has no recipe.yaml; it is not a run folder")
    assert contents(recipe.parent / "runs/run") == {"mine.txt": b"mine"}


def test_evaluate_what_is_no_run(tmp_path: Path) -> None:
    said = "run: . has no recipe.yaml; allowed: a run folder"
    refused(accept_llm("evaluate", ".", cwd=tmp_path), said)
    refused(accept_llm("predict", ".", cwd=tmp_path), said)
    refused(accept_llm("predict", "gone", cwd=tmp_path), "run: gone does not exist; it would have")


def test_evaluate_on_another_model(run: Path, tiny_llama: Path) -> None:
    other = Path(shutil.copytree(tiny_llama, run.parent / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"hidden_size": 32}))
    _set_embedding(other / "model.safetensors", 32)
    outcome = accept_llm("evaluate", run, f"model.path={other}", cwd=run.parent)
    refused(outcome, "adapter: made for hidden_size 64, the model other has 32; allowed: the base")


def test_evaluate_on_other_weights_and_in_another_dtype(run: Path, tiny_llama: Path) -> None:
    """Nothing but one number differs: sizes and tokenizer are the same."""
    import torch
    from safetensors.torch import load_file, save_file

    other = Path(shutil.copytree(tiny_llama, run.parent / "other"))
    tensors = load_file(other / "model.safetensors")
    copy = {name: tensor.to(torch.float64).float() for name, tensor in tensors.items()}
    save_file(copy, other / "model.safetensors", metadata={"format": "pt"})
    outcome = accept_llm("evaluate", run, f"model.path={other}", cwd=run.parent)
    assert outcome.code == 0, outcome.err
    copy["model.layers.1.mlp.up_proj.weight"][0, 0] += 0.1
    save_file(copy, other / "model.safetensors", metadata={"format": "pt"})
    outcome = accept_llm("evaluate", run, f"model.path={other}", "model.dtype=bf16", cwd=run.parent)
    refused(
        outcome, "adapter: made for fingerprint '", "made for dtype 'fp32', the model other has"
    )


def test_a_revision_counts_on_the_hub_only(tiny_llama: Path) -> None:
    info = inspect_model(FolderModel(kind="folder", path=str(tiny_llama)))
    assert info is not None
    hub = HubModel(kind="hub", id="a/b", revision="v1")
    card = CARD.model_copy(update={"model": describe_base(hub, info, name="a/b")})
    check_fits(card, hub, info=info)
    check_fits(card, FolderModel(kind="folder", path=str(tiny_llama)), info=info)
    with pytest.raises(RecipeError, match=r"adapter: made for revision 'v1'.* has 'main'"):
        check_fits(card, HubModel(kind="hub", id="a/b"), info=info)


def _set_embedding(path: Path, hidden: int) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    name = "model.embed_tokens.weight"
    save_file({**tensors, name: torch.zeros(len(tensors[name]), hidden)}, path)


def test_evaluate_otherwise_than_trained(run: Path) -> None:
    changes = ["task.labels=['no', 'yes']", "task.max_length=48"]
    refused(
        accept_llm("evaluate", run, *changes, cwd=run.parent),
        "adapter: made for the labels ['bad', 'good'], the task has",
    )
    refused(
        accept_llm("evaluate", run, changes[1], cwd=run.parent),
        "task.max_length: got 48; allowed: at most 24, as the adapter was trained",
    )
    refused(accept_llm("evaluate", run, "--split", "dev", cwd=run.parent), "--split: got 'dev'; al")


def card(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "prompt.json"
        data = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in data.items() if v is not None}))

    return change


ADAPTERS = {
    "none": (shutil.rmtree, "run/prompt; allowed: a prompt folder (with prompt.json)"),
    "newer": (card(format_version=4), "has format 4; allowed: 1 to 3; a newer accept-llm wrote"),
    "no head in it": (card(head=None), "prompt.json is damaged: head: missing; it must be given"),
    "cut": (cut("prompt.safetensors", 300), "prompt.safetensors is cut or damaged: 300 bytes"),
    "no head file": (without("head.safetensors"), "head.safetensors is missing"),
}


@pytest.mark.parametrize(("change", "said"), ADAPTERS.values(), ids=ADAPTERS)
def test_adapters(run: Path, change: Callable, said: str) -> None:
    change(run / "prompt")
    refused(accept_llm("evaluate", run, cwd=run.parent), "adapter: ", said)
    refused(accept_llm("predict", run, cwd=run.parent, given=b"a\n"), "adapter: ", said)


def test_an_adapter_that_overflows(run: Path) -> None:
    """Its numbers are finite, and what the model makes of them is not."""
    import torch
    from safetensors.torch import load_file, save_file

    path = run / "prompt/prompt.safetensors"
    tensors = load_file(path)
    save_file({name: torch.full_like(t, 3e38) for name, t in tensors.items()}, path)
    for command in ("evaluate", "predict"):
        outcome = accept_llm(command, run, cwd=run.parent, given=b"a\n")
        assert outcome.code == 1, outcome.err
        assert outcome.err.startswith("error: row "), outcome.err
        assert "the scores are [nan, nan]" in outcome.err
        assert "allowed: finite numbers" in outcome.err
        assert outcome.out == ""


@pytest.mark.parametrize(
    "command", ["validate", "plan", "train", "evaluate", "predict", "recipes copy quickstart"]
)
def test_a_name_that_no_file_can_have(tmp_path: Path, command: str) -> None:
    outcome = accept_llm(*command.split(), "x" * 5000, cwd=tmp_path)
    assert len(refused(outcome, "File name too long: 'xxx")) < 200


# --- inputs of predict ------------------------------------------------------------------

INPUTS = {
    "nothing": (b" \n\n", ["input: got no text; allowed: at least one line"]),
    "bad json": (b'fine\n{"review": \n', ["input line 2: got '{\"review\":'; not JSON"]),
    "other keys": (b'{"reviw": "a"}\n', ["input line 1: no key 'review', did you mean 'reviw'?"]),
    "a number": (b'{"review": 3}\n', ["input line 1: review: got 3; allowed: text"]),
    "not utf-8": (b"caf\xe9\n", ["--input: standard input is not UTF-8 text (at byte 3)"]),
}


@pytest.mark.parametrize(("given", "said"), INPUTS.values(), ids=INPUTS)
def test_inputs(run: Path, given: bytes, said: list[str]) -> None:
    refused(accept_llm("predict", run, cwd=run.parent, given=given), *said)


def test_inputs_and_outputs_at_once(run: Path) -> None:
    (run.parent / "out.jsonl").write_text("mine")
    arguments = ["--input", "gone.txt", "--out", "out.jsonl"]
    said = ["--input: cannot read gone.txt (No such", "--out: out.jsonl exists and is left as it"]
    refused(accept_llm("predict", run, *arguments, cwd=run.parent), *said)
    assert (run.parent / "out.jsonl").read_text() == "mine"
    refused(accept_llm("predict", run, "--input", ".", cwd=run.parent), "cannot read . (Is a dir")
    arguments = ["--out", "gone/out.jsonl"]
    refused(accept_llm("predict", run, *arguments, cwd=run.parent, given=b"a"), "--out: got gone/o")


def test_plain_text_for_pairs(run: Path) -> None:
    data = yaml.safe_load((run / "recipe.yaml").read_text())
    data["task"]["text"] = ["first", "second"]
    (run / "recipe.yaml").write_text(yaml.safe_dump(data))
    said = "input line 1: got plain text, 'a'; allowed: JSON with first, second"
    refused(accept_llm("predict", run, cwd=run.parent, given=b"a\n"), said)


# --- launchers and other commands -------------------------------------------------------


def test_launchers(recipe: Path) -> None:
    single, fsdp = ROOT / "launchers/single_gpu.py", ROOT / "launchers/fsdp.py"
    outcome = run_python(single, recipe, "engine.kind=fsdp2", cwd=recipe.parent)
    refused(outcome, "engine.kind: got 'fsdp2', but this launcher runs 'single'; use: accelerate")
    outcome = run_python(fsdp, recipe, "engine.kind=single", cwd=recipe.parent)
    refused(outcome, "engine.kind: got 'single', but this launcher runs 'fsdp2'; use: accept-llm")
    outcome = run_python(fsdp, recipe, cwd=recipe.parent)
    said = "engine: fsdp2 needs its processes started for it: accelerate launch"
    refused(outcome, said, seconds=TORCH)
    assert not (recipe.parent / "runs").exists()


def test_only_the_first_rank_speaks(recipe: Path) -> None:
    fsdp, second = ROOT / "launchers/fsdp.py", {"RANK": "1", "WORLD_SIZE": "2"}
    outcome = run_python(fsdp, recipe, "train.steps=0", cwd=recipe.parent, env=second)
    assert (outcome.code, outcome.out, outcome.err) == (2, "", "")
    outcome = run_python(fsdp, recipe, "train.steps=0", cwd=recipe.parent, env={"RANK": "0"})
    refused(outcome, "train.steps: got 0; allowed: at least 1")


def test_recipes_and_data(tmp_path: Path) -> None:
    said = "recipes: got 'quikstart', did you mean 'quickstart'? allowed: "
    refused(accept_llm("recipes", "copy", "quikstart", cwd=tmp_path), said)
    (tmp_path / "quickstart.yaml").write_text("mine")
    said = "recipes: quickstart.yaml exists and is left as it is"
    refused(accept_llm("recipes", "copy", "quickstart", cwd=tmp_path), said)
    assert (tmp_path / "quickstart.yaml").read_text() == "mine"
    outcome = accept_llm("data", "fetch", "sst3", "--out", "d", cwd=tmp_path)
    refused(outcome, "data fetch: got 'sst3', did you mean 'sst2'? allowed: ")
    assert not (tmp_path / "d").exists()


def test_the_good_recipe_is_good(recipe: Path) -> None:
    """Or the refusals above would prove little."""
    assert accept_llm("validate", recipe, cwd=recipe.parent).out == f"{recipe}: ok\n"
