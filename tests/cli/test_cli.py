"""Whole runs of a tiny model through the real command line: train, evaluate, predict."""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.commands import ROOT, Outcome, accept_llm
from support.data_files import write_parquet
from support.runs import metrics, recipe_data

from accept_llm import api, load_prompt
from accept_llm.data.inputs import make_inputs, open_output
from accept_llm.errors import RecipeError
from accept_llm.recipe.recipe import load_recipe, parse_recipe

TEXTS = "the kettle was lovely and fast\n\nthe zip jams: late, wrong, cold\n"


@dataclass(frozen=True)
class Run:
    """A finished run and what its command printed."""

    folder: Path
    data: dict[str, Any]
    command: Outcome

    @property
    def result(self) -> dict[str, Any]:
        return json.loads((self.folder / "result.json").read_text())

    def evaluated(self, *args: str) -> dict[str, Any]:
        return json.loads(succeeded("evaluate", self.folder, *args, cwd=self.folder.parent).out)

    def predicted(self, given: str, *args: str | Path) -> list[dict[str, Any]]:
        command = ["predict", self.folder, *args]
        done = succeeded(*command, cwd=self.folder.parent, given=given.encode())
        return [json.loads(line) for line in done.out.splitlines()]


def succeeded(*args: str | Path, cwd: Path, given: bytes = b"") -> Outcome:
    done = accept_llm(*args, cwd=cwd, given=given)
    assert done.code == 0, done.err
    return done


def trained(folder: Path, data: dict[str, Any]) -> Run:
    (folder / "in.yaml").write_text(yaml.safe_dump(data))
    done = succeeded("train", "in.yaml", "train.eval_every=3", cwd=folder)
    return Run(folder / "runs/run", data, done)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Run:
    """ACCEPT with the linear head on two classes."""
    folder = tmp_path_factory.mktemp("linear")
    return trained(folder, recipe_data(folder, tiny_llama))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Run:
    """ACCEPT with label words."""
    folder = tmp_path_factory.mktemp("words")
    head = {"kind": "label_words", "words": {"good": "lovely", "bad": "cold"}}
    return trained(folder, recipe_data(folder, tiny_llama) | {"head": head})


def test_the_run_folder_is_complete(run: Run) -> None:
    files = {str(p.relative_to(run.folder)) for p in run.folder.rglob("*") if p.is_file()}
    assert files == {
        *("recipe.yaml", "metrics.jsonl", "result.json", "curves.png", "README.md"),
        *("prompt/prompt.safetensors", "prompt/head.safetensors", "prompt/prompt.json"),
        *("state/state.pt", ".lock"),
    }
    assert (run.folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    resolved = parse_recipe(run.data | {"train": run.data["train"] | {"eval_every": 3}})
    assert load_recipe(run.folder / "recipe.yaml") == (resolved, [])


def test_metrics_have_every_step_and_evaluation(run: Run) -> None:
    assert [line["step"] for line in metrics(run.folder, of="loss")] == list(range(1, 9))
    assert [line["step"] for line in metrics(run.folder, of="validation")] == [3, 6, 8]
    assert all(math.isfinite(line["loss"]) for line in metrics(run.folder, of="loss"))


def test_result_says_what_was_trained(run: Run) -> None:
    result, hidden = run.result, 64
    assert result["rows"] == {"train": 24, "validation": 10, "test": 11}
    assert result["steps"] == 8
    assert result["best_step"] in (3, 6, 8)
    assert 0 < result["trainable"]["prepended"] <= 6 * hidden
    assert result["trainable"]["prepended"] + result["trainable"]["added"] <= 12 * hidden
    assert result["trainable"]["head"] == 2 * hidden
    assert {"seconds", "versions", "seeds", "git_commit", "peak_memory_per_rank"} <= set(result)


def test_train_prints_where_everything_is(run: Run) -> None:
    out = run.command.out
    assert "24 train, 10 validation, 11 test rows" in out
    assert "step 8/8" in out
    assert f"curves: {run.folder}/curves.png" in out.replace("\n", "")
    assert run.command.err == ""


def test_evaluate_gives_the_scores_of_the_run(run: Run) -> None:
    assert run.evaluated() == {"split": "test", **run.result["test"]}
    validation = run.evaluated("--split", "validation")
    assert validation == {"split": "validation", **run.result["validation"]}


def check_probabilities(found: list[dict[str, Any]]) -> None:
    for line in found:
        probabilities = line["probabilities"]
        assert set(probabilities) == {"bad", "good"}
        assert sum(probabilities.values()) == pytest.approx(1)
        assert line["label"] == max(probabilities, key=probabilities.__getitem__)


def test_predict_lines_and_jsonl(run: Run, tmp_path: Path) -> None:
    found = run.predicted(TEXTS)
    assert [line["id"] for line in found] == ["1", "3"]
    check_probabilities(found)
    texts = [line for line in TEXTS.splitlines() if line]
    rows = [json.dumps({"id": f"row {i}", "review": text}) for i, text in enumerate(texts)]
    (tmp_path / "in.jsonl").write_text("\n".join(rows), encoding="utf-8-sig")
    arguments = ["--input", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl"]
    assert run.predicted("", *arguments) == []
    again = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["id"] for line in again] == ["row 0", "row 1"]
    for one, other in zip(found, again, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"])


def test_texts_of_several_lines_are_told(run: Run, tmp_path: Path) -> None:
    texts = "".join(f'"lovely\n{i}",{label}\n' for i, label in enumerate(["bad", "good"] * 5))
    (tmp_path / "new.csv").write_text(f"review,label\n{texts}")
    said = "new.csv: 10 of 10 rows have line breaks inside a text"
    found = succeeded("predict", run.folder, "--input", "new.csv", cwd=tmp_path)
    assert [json.loads(line)["id"] for line in found.out.splitlines()] == [
        str(n) for n in range(1, 11)
    ]
    assert found.err == f"note: --input: {said}\n"
    found = succeeded("evaluate", run.folder, f"task.test={tmp_path}/new.csv", cwd=run.folder)
    assert f"note: task.test: {tmp_path}/{said}\n" in found.err
    assert set(json.loads(found.out)) >= {"split", "accuracy"}
    (tmp_path / "in.yaml").write_text(yaml.safe_dump(run.data))
    files = [f"task.{split}=new.csv" for split in ("train", "validation", "test")]
    found = succeeded(
        "train", "in.yaml", *files, "train.steps=1", f"output_dir={tmp_path}/runs", cwd=tmp_path
    )
    assert found.out.count(f": {said}\n") == 3


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_answers_can_be_read_whatever_the_console_has(
    run: Run, tmp_path: Path, encoding: str
) -> None:
    (tmp_path / "in.json").write_text(json.dumps([{"id": "é ж 😀", "review": "lovely"}]))
    command = [sys.executable, "-m", "accept_llm", "predict", run.folder, "--input", "in.json"]
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    (line,) = done.stdout.decode(encoding).splitlines()
    assert json.loads(line)["id"] == "é ж 😀"


def test_answers_come_a_lot_at_a_time_and_stay(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails later loses no answer of before."""
    monkeypatch.setattr(api, "BATCHES_AT_ONCE", 1)
    texts = ["a lamp", "the zip was late and cold", "x", "wrong"]
    prepared, engine = api.prepare_run(run.folder, ["train.eval_batch_size=2"], split=None)
    answers = api.answer(prepared, engine, examples=make_inputs(texts, prepared.task))
    out = tmp_path / "out.jsonl"

    def three_and_a_failure() -> None:
        with open_output(out) as write:
            for _ in range(3):
                write(next(answers))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        three_and_a_failure()
    assert not out.exists()
    partial = out.with_name("out.jsonl.partial")
    found = [json.loads(line) for line in partial.read_text().splitlines()]
    want = api.predict(run.folder, texts)[:3]
    assert [x["id"] for x in found] == [x["id"] for x in want] == ["1", "2", "3"]
    for one, other in zip(found, want, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


def test_a_file_for_the_answers_is_tried_first(run: Run, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("old")
    for out in ("there", "no/folder", "/proc/none"):
        done = accept_llm("predict", run.folder, "--out", tmp_path / out, cwd=tmp_path, given=b"x")
        assert (done.code, done.out) == (2, "")
        assert "error:" in done.err
        assert "--out: " in done.err
    assert (tmp_path / "there").read_text() == "old"


def test_a_full_console_is_one_message(run: Run) -> None:
    code = f"{sys.executable} -m accept_llm predict {run.folder} > /dev/full"
    done = subprocess.run(code, shell=True, input=b"lovely\n", capture_output=True)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1].startswith("error: No space left on device")
    assert "Traceback" not in done.stderr.decode()


@pytest.mark.parametrize(
    "change", ["head.kind=choice", "method.length=9", "train.seed=3", "name=x", "train.steps=9"]
)
def test_overrides_without_an_effect_are_refused(run: Run, change: str) -> None:
    key = change.partition("=")[0]
    with pytest.raises(RecipeError, match=rf"{key}: got '{change}', but an adapter is used as"):
        api.evaluate(run.folder, [change])


@pytest.mark.parametrize(
    ("change", "split"),
    [("task.shots=4", "test"), ("task.test_limit=3", "validation"), ("engine.kind=fsdp2", "test")],
)
def test_overrides_that_another_split_or_engine_would_have(
    run: Run, change: str, split: str
) -> None:
    with pytest.raises(RecipeError, match=rf"got '{change}', but an adapter is used as it was"):
        api.evaluate(run.folder, [change], split=split)


def test_overrides_of_predict(run: Run) -> None:
    """A shorter max_length leaves the beginning of a text."""
    long, short = "the kettle was lovely " + "bad " * 90, "task.max_length=18"
    whole, cut = (api.predict(run.folder, [long], overrides=o) for o in ([], [short]))
    assert whole != cut
    assert run.predicted(long, short) == cut
    for idle in ("task.test=x.csv", "train.steps=4", "engine.kind=fsdp2"):
        with pytest.raises(RecipeError, match=r"allowed: model\.\*, task\.max_length, "):
            api.predict(run.folder, [long], overrides=[idle])


def test_a_run_folder_can_be_moved_and_renamed(run: Run, tmp_path: Path) -> None:
    """To names that a recipe would not allow."""
    for name in ("2024", "a: b!"):
        moved = Run(run.folder.rename(tmp_path / name), run.data, run.command)
        try:
            assert moved.evaluated()["accuracy"] == moved.result["test"]["accuracy"]
        finally:
            moved.folder.rename(run.folder)


def test_load_prompt(run: Run, words: Run) -> None:
    adapter = load_prompt(run.folder / "prompt")
    assert adapter.card.task.labels == ["bad", "good"]
    assert adapter.card.step == run.result["best_step"]
    composed = adapter.prompt.compose()
    assert composed.prefix is not None
    assert composed.offsets is not None
    assert (composed.prefix.shape, composed.offsets.shape) == ((6, 64), (24, 64))
    assert adapter.head.linear.weight.shape == (2, 64)
    assert load_prompt(words.folder / "prompt").card.head["kind"] == "label_words"


def test_label_words(words: Run) -> None:
    assert words.result["trainable"]["head"] == 0
    assert not (words.folder / "prompt/head.safetensors").exists()
    assert words.evaluated() == {"split": "test", **words.result["test"]}
    check_probabilities(words.predicted(TEXTS))


def test_a_score(tmp_path: Path, tiny_llama: Path) -> None:
    """STS-B's shape: two texts, a number; the linear head has one row."""
    for split, count in (("train", 12), ("validation", 8)):
        rows = [
            {"sentence1": f"the lamp {i}", "sentence2": "the pen", "label": i / 3}
            for i in range(count)
        ]
        write_parquet(tmp_path / f"data/stsb/{split}.parquet", rows)
    data = recipe_data(tmp_path, tiny_llama, steps=2)
    task = {"kind": "stsb", "dir": str(tmp_path / "data"), "max_length": 48}
    run = trained(tmp_path, data | {"task": task})
    assert set(run.result["test"]) == {"pearson", "spearman", "loss"}
    assert run.result["trainable"]["head"] == 64
    (found,) = run.predicted('{"sentence1": "a lamp", "sentence2": "a pen"}\n')
    assert set(found) == {"id", "score"}
    assert math.isfinite(found["score"])


def test_resume_of_what_never_began(tmp_path: Path, tiny_llama: Path) -> None:
    data = recipe_data(tmp_path, tiny_llama, steps=1)
    (tmp_path / "in.yaml").write_text(yaml.safe_dump(data))
    done = succeeded("train", "in.yaml", "--resume", cwd=tmp_path)
    assert "runs/run to resume; the run starts at step 0" in done.out
    assert (tmp_path / "runs/run/result.json").exists()
