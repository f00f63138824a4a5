"""Run folders of an earlier accept_llm: read by evaluate, predict and --resume, with a note."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from support.runs import finish, losses, result, start, write_recipe

import accept_llm
from accept_llm.data.loader import StepBatches
from accept_llm.recipe.upgrade import KEPT_SCALE
from accept_llm.training.trainer import Trainer


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    path = write_recipe(folder, tiny_llama, steps=8, save_every=4, eval_every=4)
    data = yaml.safe_load(path.read_text())
    data["method"]["scale"], data["train"]["lr"] = "none", 3e-3
    path.write_text(yaml.safe_dump(data))
    assert finish(start(path, "name=whole")) == [0]
    return path


def remove_scale(folder: Path) -> None:
    """The folder as it was written before prompts had a scale."""
    recipe, card = folder / "recipe.yaml", folder / "prompt/prompt.json"
    data, old = yaml.safe_load(recipe.read_text()), json.loads(card.read_text())
    assert data["method"].pop("scale") == "none"
    assert old["method"].pop("scale") is None
    recipe.write_text(yaml.safe_dump(data))
    card.write_text(json.dumps(old | {"format_version": 2}))


def make_old(folder: Path) -> None:
    """The folder as version 0.1 of before the methods wrote it."""
    remove_scale(folder)
    path = folder / "recipe.yaml"
    data = yaml.safe_load(path.read_text())
    data["prompt"] = data.pop("method")
    assert data["model"].pop("quantization") is None
    data["model"]["weights"] = "bf16"
    for field in ("lr", "weight_decay"):  # each recipe had ACCEPT's groups
        data["train"][field].setdefault("added", 0.5)
    path.write_text(yaml.safe_dump(data))
    card = folder / "prompt/prompt.json"
    old = json.loads(card.read_text())
    old["prompt"] = {k: v for k, v in old.pop("method").items() if k != "kind"}
    old["model"]["weights"] = "bf16"
    del old["model"]["quantization"]
    card.write_text(json.dumps(old | {"format_version": 1}))
    state = torch.load(folder / "state/state.pt")
    for part in (state, state["best"]):
        part["prompt"] = part.pop("method")
    torch.save(state, folder / "state/state.pt")


def test_rates_and_adapters_without_a_scale_keep_their_meaning(
    recipe: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "old"
    shutil.copytree(recipe.parent / "runs/whole", folder)
    remove_scale(folder)
    notes: list[str] = []
    assert accept_llm.evaluate(folder, notify=notes.append) == pytest.approx(result(folder)["test"])
    assert len(notes) == 1
    assert notes[0].endswith(f"earlier accept-llm: {KEPT_SCALE}")


def test_evaluate_and_predict(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(recipe.parent / "runs/whole", folder)
    notes: list[str] = []
    make_old(folder)
    want = result(folder)["test"]
    assert accept_llm.evaluate(folder, notify=notes.append) == pytest.approx(want)
    (note,) = notes
    renamed = "prompt is method now", KEPT_SCALE, "model.weights is model.quantization now"
    assert note.endswith(f"earlier accept-llm: {', '.join(renamed)}")
    assert len(accept_llm.predict(folder, ["a lovely lamp"], notify=notes.append)) == 1


def test_resume(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended at step 4, made old, and gone on with: as the run that was never ended."""
    runs, real = recipe.parent / "runs", Trainer._train_step

    def end_at_4(trainer: Trainer, step: StepBatches) -> dict[str, float]:
        if trainer.step == 4:
            raise KeyboardInterrupt
        return real(trainer, step)

    monkeypatch.setattr(Trainer, "_train_step", end_at_4)
    with pytest.raises(KeyboardInterrupt):
        accept_llm.train(recipe, {"name": "half"})
    monkeypatch.undo()
    make_old(runs / "half")
    accept_llm.train(recipe, {"name": "half"}, resume=True)
    assert len(losses(runs / "half")) == 8
    assert losses(runs / "half") == pytest.approx(losses(runs / "whole"), rel=1e-5)
    assert result(runs / "half")["test"] == pytest.approx(result(runs / "whole")["test"], rel=1e-5)


def test_a_run_of_plain_prompt_tuning(recipe: Path) -> None:
    """Its recipe had a rate for an added part that it has not."""
    folder = recipe.parent / "runs/pt"
    pt = "method={kind: pt, scale: none, budget: 6}"
    assert finish(start(recipe, "name=pt", pt, "train.lr=0.1")) == [0]
    make_old(folder)
    notes: list[str] = []
    assert accept_llm.evaluate(folder, notify=notes.append) == pytest.approx(result(folder)["test"])
    dropped = [note.split(":")[1].strip() for note in notes[1:]]
    assert dropped == [f"train.{key}.added is left out" for key in ("lr", "weight_decay")], notes
