"""Two runs that must be one: losses, scores, prompts and what each rank holds."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support.runs import finish, losses, metrics, result, start, start_ranks


def assert_parity(
    folder: Path, one: Path, *, ranks: int, steps: int = 20, main: str = "accuracy"
) -> None:
    """Losses within 1e-4, the same scores, and each rank with its share of the weights."""
    traces = [[line["loss"] for line in metrics(f, of="loss")] for f in (folder, one)]
    assert len(traces[1]) == steps
    assert traces[0] == pytest.approx(traces[1], rel=1e-4)
    sharded, single = result(folder), result(one)
    for split in "validation", "test":
        assert sharded[split] == pytest.approx(single[split], rel=1e-4)
        assert sharded[split][main] == single[split][main]
    assert sharded["best_step"] == single["best_step"]
    (whole,) = single["frozen_bytes_per_rank"]
    held = sharded["frozen_bytes_per_rank"]
    assert len(held) == ranks
    assert sum(held) == whole
    assert max(held) <= 1.05 * whole / ranks
    assert_close_prompts(folder, one, tolerance=1e-4)


def assert_close_prompts(folder: Path, other: Path, *, tolerance: float) -> None:
    for name in "prompt.safetensors", "head.safetensors":
        if not (other / "prompt" / name).exists():
            continue
        ours, theirs = (load_file(f / "prompt" / name) for f in (folder, other))
        for key, tensor in theirs.items():
            assert (ours[key] - tensor).abs().max() <= tolerance


def trained(path: Path, kind: str, *overrides: str, count: int = 2) -> Path:
    """The run folder of a run under this engine, which is trained once."""
    name = "_".join([kind, *(change.split("=")[1] for change in overrides)])
    folder = path.parent / "runs" / name
    if not folder.exists():
        changes = (f"name={name}", *overrides)
        ranks = (
            [start(path, *changes)]
            if kind == "single"
            else start_ranks(path, *changes, count=count, kind=kind)
        )
        codes = finish(*ranks)
        said = Path(f"{path}.err")
        assert set(codes) == {0}, said.read_text() if said.exists() else codes
    return folder


def assert_same_training(folder: Path, other: Path, *, rel: float, steps: int = 20) -> None:
    """The loss trace, the final prompt and head, and the scores."""
    assert len(losses(folder)) == len(losses(other)) >= steps
    assert losses(folder) == pytest.approx(losses(other), rel=rel)
    ours, theirs = (torch.load(f / "state" / "state.pt") for f in (folder, other))
    for part in "method", "head":
        for name, want in theirs[part].items():
            if want.is_floating_point():
                assert (ours[part][name] - want).norm() <= rel * want.norm(), name
    for split in "validation", "test":
        got, want = result(folder)[split], result(other)[split]
        assert got == pytest.approx(want, rel=rel)
        assert got["accuracy"] == want["accuracy"]
