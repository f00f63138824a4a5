"""The whole models and the finished runs that cases are made from."""

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from support.data_files import write_parquet
from support.fuzz.cases import World, base_recipe
from support.fuzz.forks import Server
from support.runs import BAD, GOOD, recipe_data

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {}),
    "t5": ("t5", {"head": {"kind": "choice"}}),
    "lora": ("llama", {"method": {"kind": "lora", "rank": 2}, "head": {"kind": "label_words"}}),
    "dept": ("llama", {"method": {"kind": "dept", "budget": 9, "length": 4}}),
    "score": (
        "t5",
        {
            "task": {"kind": "stsb", "dir": "", "max_length": 40},
            "head": {"kind": "generate", "max_new_tokens": 3},
        },
    ),
    "offsets": ("t5", {"method": {"kind": "accept", "budget": 9, "length": 0}}),
}


def make_world(folder: Path, models: dict[str, Path], *, server: Server) -> World:
    """Copies the models, one of them in several files too, and trains a run of each kind."""
    ours = {name: Path(shutil.copytree(path, folder / name)) for name, path in models.items()}
    ours["sharded"] = _shards(ours["llama"], folder / "sharded")
    write_scores(folder / "data/stsb")
    runs = {}
    for name, (model, more) in RUNS.items():
        data = recipe_data(folder, ours[model], steps=2, eval_every=2, lr=0.01) | more
        if "dir" in data["task"]:  # commands run in folders of their own
            data["task"] = data["task"] | {"dir": str(folder / "data")}
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(data | {"name": name}))
        ended = server.run(["train", str(path)], folder)
        assert ended.code == 0, ended.err
        runs[name] = folder / "runs" / name
    return World(folder, ours, runs, base_recipe(folder, ours["llama"]))


def write_scores(folder: Path) -> None:
    """Rows of a task whose answer is a score."""
    rows = [
        {"sentence1": f"a {word}", "sentence2": f"the {word}", "label": number % 6}
        for number, word in enumerate((GOOD + BAD)[:12])
    ]
    for split in ("train", "validation"):
        write_parquet(folder / f"{split}.parquet", rows)


def _shards(model: Path, folder: Path) -> Path:
    """The model's weights in two files and an index."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = load_file(model / "model.safetensors")
    places = {}
    for number in range(2):
        file = f"model-{number + 1:05}-of-00002.safetensors"
        part = dict(sorted(tensors.items())[number::2])
        save_file(part, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
