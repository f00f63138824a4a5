"""Drafts: what is being written beside its final place, and how those of dead processes are found.
A draft is locked as long as its process lives.
"""

import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_DRAFT = re.compile(r"\..+\.[0-9a-f]{8}")


def remove_drafts(folder: Path) -> None:
    """Removes, at any depth, what a kill left half written; no other process may write there."""
    for path in folder.rglob(".*"):
        if _DRAFT.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def lock_file(path: Path, *, wait: bool) -> int | None:
    """A descriptor that locks a draft until it is closed, or its process ends; BlockingIOError
    where another process has the lock, None where Windows or the file system knows no locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_abandoned(final: Path) -> None:
    """Removes the drafts of `final` whose processes are gone."""
    for path in final.parent.iterdir():
        if path.name.startswith(f".{final.name}.") and _DRAFT.fullmatch(path.name):
            with suppress(OSError):  # a lack of order is no reason to write nothing
                lock = lock_file(path, wait=False)
                if lock is not None:
                    try:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
                    finally:
                        os.close(lock)


@contextmanager
def draft_of(final: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A path beside `final` that `make` makes and no other process writes to. It goes away with an
    error; where a kill leaves it, the next draft of `final` finds it without a lock."""
    final.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(final)
    while True:
        draft = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")
        make(draft)
        with suppress(FileNotFoundError):  # another process came before the lock, and removed it
            lock = lock_file(draft, wait=True)
            if draft.exists():
                break
            if lock is not None:
                os.close(lock)
    try:
        yield draft
    except BaseException:
        with suppress(OSError):  # the first error is the one to be told
            shutil.rmtree(draft) if draft.is_dir() else draft.unlink()
        raise
    finally:
        if lock is not None:
            os.close(lock)
