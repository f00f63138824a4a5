"""TensorBoard's events, each written by the step that it is of. TensorBoard's own writer has a
thread, whose errors show as a traceback and reach the run later, or never.
"""

import io
import os
import socket
import time
from pathlib import Path
from typing import Any

from accept_llm.errors import RecipeError
from accept_llm.storage import append_bytes

VERSION = "brain.Event:2"


class EventFile:
    """A file of scalars in <folder>/tensorboard; RecipeError where tensorboard is not installed."""

    def __init__(self, folder: Path):
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            got = "train.tensorboard: got true, but tensorboard is not installed"
            raise RecipeError([f"{got}; needed: pip install 'accept-llm[report]'"]) from None
        self._event, self._summary, self._record = event_pb2, summary_pb2, RecordWriter
        names = (
            "events.out.tfevents",
            f"{time.time():.0f}",
            socket.gethostname(),
            f"{os.getpid()}",
        )
        self.path = folder / "tensorboard" / ".".join(names)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write(file_version=VERSION)

    def _write(self, **fields: Any) -> None:
        event = self._event.Event(wall_time=time.time(), **fields)
        record = io.BytesIO()
        self._record(record).write(event.SerializeToString())
        append_bytes(self.path, record.getvalue())

    def add(self, name: str, value: float, *, step: int) -> None:
        """A number of a step."""
        number = self._summary.Summary.Value(tag=name, simple_value=value)
        self._write(step=step, summary=self._summary.Summary(value=[number]))

    def purge(self, step: int) -> None:
        """Makes what there is of this step and later, here and in earlier files, void."""
        log = self._event.SessionLog(status=self._event.SessionLog.START)
        self._write(step=step, session_log=log)
