"""The lines that a run prints."""

from pathlib import Path

import pytest

from accept_llm.recipe.train import Train
from accept_llm.runs.log import RunLog, read_metrics


def test_padding_is_said_where_there_is_some_and_not_more_often_than_steps(tmp_path: Path) -> None:
    said: list[str] = []
    spec = Train.model_validate({"steps": 100, "log_every": 10})
    log = RunLog(tmp_path, spec, writes=True, notify=said.append)
    shares = [0.0] * 10 + [0.25] * 10
    for epoch, share in enumerate(shares):
        log.epoch(2 * (epoch + 1), epoch, padding=share)
    assert said == [
        "step 22/100  epoch 10: padding 25.0% of the positions",
        "step 32/100  epoch 15: padding 25.0% of the positions",
    ]
    assert [line["padding"] for line in read_metrics(tmp_path / "metrics.jsonl")] == shares


def test_events_after_a_resume_stand_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    spec = Train.model_validate({"steps": 8, "log_every": 1, "tensorboard": True})
    values = {"loss": 1.0, "gradient_norm": 1.0, "lr": 1.0, "seconds": 1.0}
    for steps, back in ((range(1, 3), None), (range(1, 7), 0), (range(4, 9), 3)):
        log = RunLog(tmp_path, spec, writes=True, notify=lambda text: None)
        if back is not None:
            log.rewind(back)
        with log:
            for step in steps:
                log.step(step, values, batch_size=1)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/loss")
    assert [event.step for event in events] == list(range(1, 9))
