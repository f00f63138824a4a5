"""The signals that end a run after its step, so that it can go on later."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

STOPS = (signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Stopped(RuntimeError):
    """A signal has ended the run early, SIGTERM, SIGINT (Ctrl-C) or SIGHUP (its terminal is gone);
    it can go on."""

    def __init__(self, number: int, step: int):
        self.number = signal.Signals(number)
        super().__init__(f"stopped by {self.number.name} at step {step}; continue with --resume")


class StopSignals:
    """What this process has got of STOPS while they were caught."""

    def __init__(self) -> None:
        self.got: signal.Signals | None = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Takes the signals that are not ignored (nohup's SIGHUP), and gives them back. Only a main
        thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        taken = [number for number in STOPS if signal.getsignal(number) != signal.SIG_IGN]
        previous = {number: signal.signal(number, self.take) for number in taken}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def take(self, number: int, _: object = None) -> None:
        """The run ends after its step; a second Ctrl-C ends it at once."""
        self.got = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.write(2, b"\nstopping after this step; Ctrl-C once more stops at once\n")

    def flags(self) -> list[float]:
        """1 for the signal that this process has got, to be summed over the ranks."""
        return [float(self.got == number) for number in STOPS]


def any_rank_got(flags: Sequence[float]) -> signal.Signals | None:
    """The signal of the summed flags, SIGTERM first."""
    return next((number for number, ranks in zip(STOPS, flags, strict=True) if ranks), None)
