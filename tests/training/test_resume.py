"""Kills at any moment, then --resume: the same bytes as the run that was left alone."""

import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.runs import finish, kill, metrics, start, wait_for_step, write_recipe

import accept_llm
from accept_llm.errors import RecipeError
from accept_llm.runs.log import read_metrics
from accept_llm.training.state import FILE, load_state, save_state

STEPS = 40
TRAIN = {"steps": STEPS, "eval_every": 6, "save_every": 2, "warmup_steps": 3}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, tiny_llama) -> Path:
    return write_recipe(tmp_path_factory.mktemp("resume"), tiny_llama, **TRAIN)


@pytest.fixture(scope="module")
def undisturbed(recipe) -> Path:
    assert finish(start(recipe, "name=whole")) == [0]
    return recipe.parent / "runs" / "whole"


def digests(folder: Path) -> dict[str, str]:
    files = sorted((folder / "prompt").glob("*.safetensors"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def assert_same_outcome(folder: Path, whole: Path) -> None:
    assert digests(folder) == digests(whole)
    assert len(digests(folder)) == 2
    for of in "loss", "validation":
        assert [line["step"] for line in metrics(folder, of=of)] == [
            line["step"] for line in metrics(whole, of=of)
        ]
    assert [line["step"] for line in metrics(folder, of="loss")] == list(range(1, STEPS + 1))
    one, two = (json.loads((f / "result.json").read_text()) for f in (folder, whole))
    assert all(one[key] == two[key] for key in ("test", "validation", "best_step", "steps"))


def test_two_runs_give_the_same_bytes(recipe, undisturbed):
    assert finish(start(recipe, "name=again")) == [0]
    assert_same_outcome(recipe.parent / "runs" / "again", undisturbed)


@pytest.mark.parametrize("seed", range(3))
def test_kill_9_at_random_moments(recipe, undisturbed, seed):
    """The state is written every second step, so that some kills hit its writing."""
    name = f"killed{seed}"
    folder = recipe.parent / "runs" / name
    draw, kills = random.Random(seed), 0
    while not (folder / "result.json").exists():
        process = start(recipe, f"name={name}", resume=folder.exists())
        if kills < 6:
            first = 1 + max((line["step"] for line in read(folder)), default=0)
            wait_for_step(folder, min(first, STEPS), process)
            time.sleep(draw.uniform(0, 0.15))
            kill(process)
            kills += process.exitcode == -signal.SIGKILL
        else:
            assert finish(process) == [0]
    assert kills >= 3
    assert_same_outcome(folder, undisturbed)


def read(folder: Path) -> list[dict]:
    """Lines of metrics.jsonl; the last one may have been cut by a kill."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def test_kill_before_the_first_state(recipe, undisturbed):
    folder = recipe.parent / "runs" / "early"
    process = start(recipe, "name=early", "train.save_every=30")
    assert wait_for_step(folder, 8, process)  # past an evaluation: prompt/ is there
    kill(process)
    assert (folder / "prompt").exists()
    assert not (folder / "state").exists()
    assert finish(start(recipe, "name=early", "train.save_every=30", resume=True)) == [0]
    assert_same_outcome(folder, undisturbed)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_leaves_a_state_and_its_exit_code(recipe, undisturbed, number, code):
    name = f"stopped-{code}"
    folder = recipe.parent / "runs" / name
    process = start(recipe, f"name={name}", "train.save_every=1000")
    assert wait_for_step(folder, 9, process)
    os.kill(process.pid, number)
    assert finish(process) == [code]
    assert not (folder / "result.json").exists()
    assert load_state(folder / "state")["step"] >= 9
    assert finish(start(recipe, f"name={name}", "train.save_every=1000", resume=True)) == [0]
    assert_same_outcome(folder, undisturbed)


def test_two_runs_of_one_name_exclude_each_other(recipe, undisturbed):
    folder = recipe.parent / "runs" / "twice"
    codes = finish(start(recipe, "name=twice"), start(recipe, "name=twice"))
    assert sorted(codes) == [0, 2]
    assert_same_outcome(folder, undisturbed)


def test_a_resume_while_the_run_goes_on_is_refused(recipe, undisturbed):
    folder = recipe.parent / "runs" / "busy"
    process = start(recipe, "name=busy")
    assert wait_for_step(folder, 4, process)
    os.kill(process.pid, signal.SIGSTOP)  # as slow as can be
    try:
        assert finish(start(recipe, "name=busy", resume=True)) == [2]
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert "another process is writing the run folder" in Path(f"{recipe}.err").read_text()
    kill(process)  # the lock dies with it
    assert finish(start(recipe, "name=busy", resume=True)) == [0]
    assert_same_outcome(folder, undisturbed)


def test_what_a_kill_left_half_written_goes_away(recipe, undisturbed):
    folder = recipe.parent / "runs" / "draft"
    process = start(recipe, "name=draft")
    assert wait_for_step(folder, 4, process)
    kill(process)
    (folder / "state" / ".state.pt.0123abcd").write_bytes(b"half")
    (folder / ".prompt.0123abcd").mkdir()
    assert finish(start(recipe, "name=draft", resume=True)) == [0]
    assert not list(folder.rglob("*.0123abcd"))
    assert_same_outcome(folder, undisturbed)


def test_kill_9_through_the_command_line(recipe, undisturbed):
    """As the others, without the fork server: a real process from start to end."""
    folder = recipe.parent / "runs" / "cli"
    code = "from accept_llm.cli.main import main; main()"
    command = [sys.executable, "-c", code, "train", str(recipe), "name=cli"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 90
        while not any(line["step"] >= 13 for line in read(folder)) and time.monotonic() < until:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    subprocess.run([*command, "--resume"], env=environment, check=True, capture_output=True)
    assert_same_outcome(folder, undisturbed)


# --- what may change ----------------------------------------------------------------------


def stopped(recipe: Path, name: str, *, step: int = 9) -> Path:
    folder = recipe.parent / "runs" / name
    process = start(recipe, f"name={name}", "train.save_every=1000")
    assert wait_for_step(folder, step, process)
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process) == [143]
    return folder


@pytest.fixture
def other_rows(recipe):
    """Puts other validation rows in the place of those there were, and back."""
    path = recipe.parent / "validation.jsonl"
    before = path.read_text()
    yield lambda: path.write_text("".join(reversed(before.splitlines(keepends=True))))
    path.write_text(before)


def test_other_rows_are_refused_by_name_unless_they_are_known(recipe, other_rows):
    folder = stopped(recipe, "other")
    state = (folder / "state" / FILE).read_bytes()
    other_rows()
    with pytest.raises(RecipeError, match="resume: the validation rows are not those of the run"):
        accept_llm.train(recipe, {"name": "other", "train.save_every": 1000}, resume=True)
    assert (folder / "state" / FILE).read_bytes() == state
    changes = {"name": "other", "train.save_every": 1000}
    result = accept_llm.train(recipe, changes, resume="changed-data")
    (change,) = result.history
    assert change.endswith(": the validation rows are not those that the run began with")
    assert result.steps == STEPS
    assert result.best_step > load_state_step(state)  # of the new rows


def test_other_rows_for_a_finished_run_are_scored(recipe, other_rows):
    changes = {"name": "finished", "train.steps": 12}
    accept_llm.train(recipe, changes)
    other_rows()
    result = accept_llm.train(recipe, changes, resume="changed-data")
    assert (result.steps, result.best_step, len(result.history)) == (12, 12, 1)


def load_state_step(state: bytes) -> int:
    return torch.load(io.BytesIO(state))["step"]


def test_another_model_is_refused(recipe, tmp_path, tiny_llama):
    folder = stopped(recipe, "model")
    other = shutil.copytree(tiny_llama, tmp_path / "model")
    weights = load_file(other / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"] *= 1.5
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    text = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(text.replace(str(tiny_llama), str(other)))
    changes = {"name": "model", "train.save_every": 1000, "model.path": str(other)}
    with pytest.raises(RecipeError, match="resume: the weights of the model is not that of the"):
        accept_llm.train(recipe, changes, resume=True)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [("config.json", "rms_norm_eps", 0.1), ("tokenizer_config.json", "bos_token", "</s>")],
)
def test_other_settings_of_the_model_are_refused_and_said(
    recipe, tmp_path, tiny_llama, file, key, value
):
    """By --resume; evaluate says it, as another transformers may have written the same model."""
    model = shutil.copytree(tiny_llama, tmp_path / "model")
    changes = {"name": file, "model.path": str(model), "train.steps": 5}
    accept_llm.train(recipe, changes)
    settings = json.loads((model / file).read_text())
    (model / file).write_text(json.dumps(settings | {"transformers_version": "4.0.0"}))
    said: list[str] = []
    folder = recipe.parent / "runs" / file
    same = accept_llm.evaluate(folder, notify=said.append)
    assert not said
    (model / file).write_text(json.dumps(settings | {key: value}))
    with pytest.raises(
        RecipeError, match=f"resume: the {file} of the model is not that of the run"
    ):
        accept_llm.train(recipe, changes | {"train.steps": 6}, resume=True)
    assert (accept_llm.evaluate(folder, notify=said.append) == same) is (file != "config.json")
    assert f"{model / file} is not as it was when the adapter was trained" in "".join(said)


def test_evaluate_says_that_rows_are_others(recipe):
    accept_llm.train(recipe, {"name": "scored", "train.steps": 5})
    folder, said = recipe.parent / "runs/scored", list[str]()
    accept_llm.evaluate(folder, notify=said.append)
    assert not said
    accept_llm.evaluate(folder, {"task.test_limit": 3}, notify=said.append)
    assert said == [f"note: the test rows are not those that {folder / 'result.json'} is of"]
    (folder / "result.json").write_text("{}")  # which evaluating does not need
    accept_llm.evaluate(folder)


def test_a_finished_run_without_its_state_is_refused(recipe):
    changes = {"name": "stateless", "train.steps": 5}
    accept_llm.train(recipe, changes)
    shutil.rmtree(recipe.parent / "runs/stateless/state")
    with pytest.raises(
        RecipeError, match=r"resume: the run in .* is finished, but .*state.pt is not"
    ):
        accept_llm.train(recipe, changes, resume=True)


@pytest.mark.parametrize("held", [None, [1], torch.zeros(2), {"best": 3}])
def test_a_state_that_is_none_is_refused(tmp_path, held):
    torch.save(held, tmp_path / "state.pt")
    with pytest.raises(RecipeError, match=r"resume: .*state.pt is damaged: it holds no state of a"):
        load_state(tmp_path)


@pytest.mark.parametrize("line", [b"{}", b"[]", b"\xff\xfe", b'{"step": "x"}'])
def test_metrics_that_are_none_are_refused(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n')
    with pytest.raises(RecipeError, match=r"metrics.jsonl: line 2 is no JSON object with a step"):
        read_metrics(path)
    path.write_bytes(b'{"step": 1}\n{"st')
    assert read_metrics(path) == [{"step": 1}]


def test_a_finished_run_can_be_made_longer(recipe, tmp_path):
    done = accept_llm.train(recipe, {"name": "longer", "train.steps": 20})
    assert done.history == []
    said: list[str] = []
    longer = accept_llm.train(
        recipe, {"name": "longer", "train.steps": 30}, resume=True, notify=said.append
    )
    assert (longer.steps, len(longer.history)) == (30, 1)
    what = "train.steps is 30, and was 20: from here on the schedule is that of the new length"
    assert f"note: {what}" in said
    assert longer.history == [f"step 20: {what}"]
    folder = recipe.parent / "runs" / "longer"
    rates = {line["step"]: line["lr"] for line in metrics(folder, of="loss")}
    peak = 3e-3
    for step in range(21, 31):  # those of a run of 30 steps from its start
        assert rates[step] == pytest.approx(peak * (30 - (step - 1)) / (30 - 3))
    with pytest.raises(RecipeError, match=r"resume: train\.steps: was 30, is 25"):
        accept_llm.train(recipe, {"name": "longer", "train.steps": 25}, resume=True)


def test_another_version_is_noted(recipe):
    folder = stopped(recipe, "version")
    state = torch.load(folder / "state" / FILE)
    state["origin"]["version"] = "0.0.1"
    torch.save(state, folder / "state" / FILE)
    said: list[str] = []
    changes = {"name": "version", "train.save_every": 1000}
    accept_llm.train(recipe, changes, resume=True, notify=said.append)
    assert f"note: accept_llm is {accept_llm.__version__}, and was 0.0.1" in said


# --- the state file ---------------------------------------------------------------------


def state(step: int) -> dict:
    return {"step": step, "prompt": {"x": torch.full((1000,), float(step))}}


class Torn(Exception):
    pass


def test_a_kill_while_writing_leaves_the_older_state(tmp_path, monkeypatch):
    save_state(tmp_path, state(1))
    whole = torch.save

    def half(data, file):
        whole(data, file)
        file.truncate(file.tell() // 2)
        raise Torn

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(Torn):
        save_state(tmp_path, state(2))
    monkeypatch.undo()
    assert load_state(tmp_path)["step"] == 1
    save_state(tmp_path, state(3))  # the torn file is in nobody's way
    assert load_state(tmp_path)["method"]["x"].eq(3).all()
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_kill_before_the_replacement_leaves_the_older_state(tmp_path, monkeypatch):
    save_state(tmp_path, state(1))

    def never(self, target):
        raise Torn

    monkeypatch.setattr(Path, "replace", never)
    with pytest.raises(Torn):
        save_state(tmp_path, state(2))
    assert load_state(tmp_path)["step"] == 1


STATES = {
    "no stale": lambda state: state.pop("stale"),
    "a step after the last": lambda state: state.update(step=10**6),
    "no best method": lambda state: state["best"].pop("method"),
    "a tensor lacks": lambda state: state["method"].popitem(),
    "no optimizer": lambda state: state.update(optimizer=None),
}


@pytest.mark.parametrize("damage", STATES)
def test_a_state_that_is_damaged_inside_is_refused(recipe, undisturbed, damage):
    folder = undisturbed.with_name(damage.replace(" ", "-"))
    shutil.copytree(undisturbed, folder)
    (folder / "result.json").unlink()
    kept = folder / "recipe.yaml"
    kept.write_text(kept.read_text().replace("name: whole", f"name: {folder.name}"))
    state = load_state(folder / "state")
    STATES[damage](state)
    save_state(folder / "state", state)
    before = digests(folder)
    with pytest.raises(RecipeError, match=r"resume: .*state\.pt is damaged: "):
        accept_llm.train(recipe, {"name": folder.name}, resume=True)
    assert digests(folder) == before


def test_a_damaged_state_is_said(tmp_path):
    assert load_state(tmp_path) is None
    save_state(tmp_path, state(1))
    path = tmp_path / FILE
    for damage in path.read_bytes()[:300], b"", b"text":
        path.write_bytes(damage)
        with pytest.raises(RecipeError, match=r"resume: .*state\.pt cannot be read"):
            load_state(tmp_path)
