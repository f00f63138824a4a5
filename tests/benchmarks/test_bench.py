"""The benchmarks run on tiny models, and both of their sides do the same work."""

import json
import statistics
import sys
from pathlib import Path

import pytest
import torch

from accept_llm.models.find import fetch_model
from accept_llm.recipe.model import FolderModel
from accept_llm.recipe.train import Train
from accept_llm.runs.log import RunLog
from benchmarks import accuracy, gpu, scaling, step
from benchmarks.compute import linear_shapes, step_flops
from benchmarks.measure import results, seconds_of
from benchmarks.sides import STATE, Source, Variant
from benchmarks.tables import VARIANTS as COLUMNS
from benchmarks.tables import number
from benchmarks.texts import drawn, ordered

pytest.importorskip("peft")

M = 7
PACKED = Variant("packed", "ours", STATE, "pt", m=M, packed=True)
OTHERS = (
    Variant("padded", "ours, padded", STATE, "pt", m=M),
    Variant("peft", "PEFT", STATE, "peft", m=M),
    Variant("wide", "PEFT, padded to 40", STATE, "peft", m=M, pad=40),
    Variant("bare", "PEFT without a mask", STATE, "peft", m=M, mask=False),
)


@pytest.fixture(scope="module")
def source(tiny_llama: Path) -> Source:
    return Source(fetch_model(FolderModel(kind="folder", path=str(tiny_llama))), "fp32")


@pytest.mark.parametrize("other", OTHERS, ids=lambda v: v.key)
def test_both_sides_do_the_same_work(source: Source, other: Variant) -> None:
    """With the same prompt and head, losses and gradients agree."""
    ours, theirs = (source.side(variant, classes=2) for variant in (PACKED, other))
    for mine, yours in zip(ours.parameters, theirs.parameters, strict=True):
        assert mine.shape == yours.shape
        yours.data.copy_(mine.data)
    rows = drawn([3, 31, 1, 12, 12], vocab_size=300)
    losses = [side.loss(side.prepare(rows)) for side in (ours, theirs)]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-4)
    for loss in losses:
        loss.backward()
    for mine, yours in zip(ours.parameters, theirs.parameters, strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad, yours.grad, rtol=1e-4, atol=1e-6)


def test_logits_of_peft_read_the_last_token(source: Source) -> None:
    variant = Variant("logits", "PEFT, logits", "logits", "peft", m=M, logits=True)
    side, rows = source.side(variant, classes=2), drawn([5, 9], vocab_size=300)
    alone = [side.loss(side.prepare([row])).item() for row in rows]
    assert side.loss(side.prepare(rows)).item() == pytest.approx(statistics.mean(alone), abs=1e-5)
    assert len(side.parameters) == 1


def test_ratios_are_of_medians() -> None:
    batches = [drawn([4, 4], vocab_size=9), drawn([6, 6], vocab_size=9)]
    times = {"packed": [[1.0, 9.0, 2.0], [4.0, 4.0, 0.0]], "wide": [[6.0, 12.0, 90.0]]}
    wide = OTHERS[2]
    first, second = results(
        [PACKED, wide], batches, times=times, peaks={"packed": 10, "wide": 40}, failed={}
    )
    assert seconds_of(times["packed"]) == first["seconds"] == 3.0
    assert second["seconds"] == 12.0  # one batch is enough where the padding is fixed
    assert (first["times_first"], second["times_first"]) == (1.0, 4.0)
    assert (first["peak_times_first"], second["peak_times_first"]) == (1.0, 4.0)
    assert first["tokens_per_second"] == pytest.approx(10 / 3)
    assert second["tokens_per_second"] == pytest.approx(8 / 12)
    assert (first["positions"], second["positions"]) == (M + 10, 2 * (M + 40))


def test_what_ran_out_of_memory_has_no_numbers() -> None:
    line = results(
        [PACKED], [drawn([4], vocab_size=9)], times={}, peaks={}, failed={"packed": "full"}
    )
    assert line[0]["failed"] == "full"
    assert "seconds" not in line[0]


def test_a_ratio_to_what_failed_is_not_known() -> None:
    given = [PACKED, OTHERS[1]]
    _, second = results(
        given,
        [drawn([4], vocab_size=9)],
        times={"peft": [[1.0]]},
        peaks={"peft": None},
        failed={"packed": "out of memory"},
    )
    assert second["seconds"] == 1.0
    assert second["times_first"] is second["peak_times_first"] is None


def test_ordered_batches_hold_the_same_examples() -> None:
    batches = [drawn([9, 2, 5], vocab_size=9), drawn([1, 7], vocab_size=9)]
    lengths = [[len(row.tokens) for row in rows] for rows in ordered(batches)]
    assert lengths == [[1, 2, 5], [7, 9]]


def test_flops_by_hand(source: Source) -> None:
    """Two layers of width 64, 4 heads (2 of keys) and 128 within, counted here one by one."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source.info.folder)
    assert sum(linear_shapes(config).values()) == 2 * 7
    weights = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
    tokens, pairs = 3 + 2 + 1, (1 + 2 + 3) + (4 + 5) + 4
    attention = 2 * 2 * 2 * 64 * pairs  # two layers, two products
    rows = drawn([2, 1], vocab_size=9)
    assert step_flops(config, rows, m=3) == 4 * tokens * weights + 3 * attention


def test_numbers_have_three_digits() -> None:
    given = (None, 0.012345, 1.0, 12.345, 123.4, 12345.6, 7, "a")
    shown = ["-", "0.0123", "1.00", "12.3", "123", "12,346", "7", "a"]
    assert [number(value) for value in given] == shown


def test_time_until_a_score() -> None:
    def curve(*points: tuple[float, float]) -> accuracy.Curve:
        return [{"step": i, "score": s, "seconds": t} for i, (s, t) in enumerate(points)]

    curves = {"accept_llm": curve((0.5, 1), (0.9, 2)), "PEFT": curve((0.6, 5), (0.8, 10))}
    assert accuracy.summary(curves, None)["share"] == 0.2  # until PEFT's best
    never = accuracy.summary(curves, 0.85)
    assert never["seconds_until"] == {"accept_llm": 2, "PEFT": None}
    assert never["share"] == 0.2
    assert accuracy.summary(curves, 0.95)["share"] is None
    assert "| PEFT | 0.800 | 1 | 10 | - |" in accuracy.text_of(never, "x")


@pytest.mark.parametrize(("limits", "last"), [({}, 4), ({"target": 0.2}, 2), ({"limit": 0}, 1)])
def test_a_run_is_stopped_at_its_target_or_limit(limits: dict[str, float], last: int) -> None:
    printed = "print(f'step {i}/4  validation: accuracy {i / 10:.4f}')"
    slow = f"import time\nfor i in range(1, 5): {printed}; time.sleep(0.2)"
    curve = accuracy.timed_run([sys.executable, "-c", slow], **limits)
    assert [point["step"] for point in curve] == list(range(1, last + 1))


def test_the_clock_reads_what_a_run_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = RunLog(tmp_path, Train(steps=400), writes=True, notify=print)
    log.evaluation(50, {"accuracy": 0.875, "loss": 0.3}, better=True)
    found = accuracy.EVALUATION.search(capsys.readouterr().out)
    assert found
    assert found.groups() == ("50", "0.8750")


def test_peft_trains_the_recipe(tiny_llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["model.kind=folder", f"model.path={tiny_llama}"]
    task = ["task.kind=quickstart", "task.train_limit=20", "task.validation_limit=8"]
    train = ["train.steps=3", "train.eval_every=2", "train.batch_size=4", "train.warmup_steps=1"]
    accuracy.train_peft(str(step.RECIPE), [*model, *task, *train])
    found = accuracy.EVALUATION.findall(capsys.readouterr().out)
    assert [number for number, _ in found] == ["2", "3"]


# --- the programs -----------------------------------------------------------------------


def generated(folder: Path, name: str) -> tuple[dict, str]:
    (data,), (text,) = folder.glob(f"{name}-*.json"), folder.glob(f"{name}-*.md")
    return json.loads(data.read_text()), text.read_text()


def test_step(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCEPT_DATA_DIR", raising=False)
    size = ["--batch", "3", "--batches", "2", "--repeats", "2", "--only", "packed", "peft"]
    step.main(["--model", str(tiny_llama), *size, "--out", str(tmp_path)])
    data, text = generated(tmp_path, "step")
    (task,) = data["tasks"]
    packed, peft = task["variants"]
    assert f"| {' | '.join(COLUMNS)} |" in text
    assert task["task"] == "quickstart"
    assert [len(times) for times in packed["all_seconds"]] == [2, 2]
    assert packed["seconds"] == pytest.approx(seconds_of(packed["all_seconds"]))
    assert peft["times_first"] == pytest.approx(peft["seconds"] / packed["seconds"])
    assert packed["positions"] < peft["positions"]
    assert packed["peak_bytes"] > 0
    assert task["packed_step"]["share"] > 0
    assert len(task["before"]["load"]) == 3


def test_scaling(tmp_path: Path) -> None:
    scaling.scaling("fp32", repeats=1, out=tmp_path, axes={"batch": (2,)})
    data, text = generated(tmp_path, "scaling")
    (line,) = data["axes"]["batch"]
    assert line["value"] == 2
    assert line["peft"]["positions"] == 2 * (60 + 64)
    assert "| batch | positions | packed, s | PEFT, s |" in text


def test_gpu_tiny(tmp_path: Path) -> None:
    gpu.main(["--tiny", "--repeats", "1", "--out", str(tmp_path)])
    data, text = generated(tmp_path, "gpu")
    found = data["dense"]["batches"]["short texts"]
    assert [line["key"] for line in found["variants"]] == [v.key for v in gpu.VARIANTS]
    assert found["variants"][0]["positions"] == 60 + sum(found["lengths"])
    assert f"| {' | '.join(COLUMNS)} |" in text
    assert "## int8: weights" in text
    assert "bnb-int8" in text
    for kind in ("dense", "int8"):
        assert data[kind]["weights_bytes"] > 0
    assert data["int8"]["weights_bytes"] < 0.45 * data["dense"]["weights_bytes"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_gpu_wants_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--tiny" in capsys.readouterr().err
