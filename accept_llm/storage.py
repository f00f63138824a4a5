"""The folders that the environment names, and writing files and folders so that a kill cannot leave
them half done.
"""

import atexit
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from accept_llm.errors import RecipeError
from accept_llm.ranks import is_first

# --- the folders of the environment -----------------------------------------------------

DATA_DIR = "ACCEPT_DATA_DIR"
MODEL_DIR = "ACCEPT_MODEL_DIR"
CACHE_DIR = "ACCEPT_CACHE_DIR"


def home_path(path: str | Path) -> Path:
    """The path with `~` as the home folder; as it is where there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _named_folder(variable: str) -> Path | None:
    chosen = os.environ.get(variable)
    return home_path(chosen) if chosen else None


def data_dir() -> Path | None:
    """The folder of data sets, <task>/<split>.parquet, that ACCEPT_DATA_DIR names."""
    return _named_folder(DATA_DIR)


def model_dir() -> Path | None:
    """The folder of model folders that ACCEPT_MODEL_DIR names; RecipeError where it is none."""
    folder = _named_folder(MODEL_DIR)
    if folder is not None and not folder.is_dir():
        raise RecipeError([f"{MODEL_DIR}: got {str(folder)!r}; allowed: a folder of models"])
    return folder


def cache_dir() -> Path:
    """The folder of converted and downloaded models and of tokenised rows: ACCEPT_CACHE_DIR, else
    accept_llm in the cache folder of the platform (XDG_CACHE_HOME names another)."""
    try:
        xdg = _named_folder("XDG_CACHE_HOME")
        if xdg and not xdg.is_absolute():  # to be ignored, as its specification says
            xdg = None
        return _named_folder(CACHE_DIR) or (xdg or _platform_cache()) / "accept_llm"
    except RuntimeError as error:  # no home folder
        return _spare_cache(str(error))


def writable_cache() -> Path:
    """The cache, or a folder that this process alone has, where the cache cannot be written to."""
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        return _spare_cache(f"{folder}: {error.strerror or error}")


@lru_cache(maxsize=1)
def _spare_cache(why: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="accept_llm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    say(f"there is no cache ({why}); what would be kept is made in {folder} for this process alone")
    return folder


def say(text: str) -> None:
    """A note for the user on stderr, on rank 0 alone."""
    if is_first():
        print(f"note: {text}", file=sys.stderr)


def _platform_cache() -> Path:
    if sys.platform == "win32":
        return _named_folder("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path.home() / ".cache"


# --- reading and writing ----------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; ValueError names the file when it is something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise ValueError(f"{path} is not JSON ({error})") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds {type(data).__name__}; allowed: a JSON object")
    return data


_DRAFT = re.compile(r"\..+\.[0-9a-f]{8}")


def _draft_of(final: Path) -> Path:
    """A path beside `final` that no other process writes to."""
    final.parent.mkdir(parents=True, exist_ok=True)
    return final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")


def remove_drafts(folder: Path) -> None:
    """Removes, at any depth, what a kill left half written; no other process may write there."""
    for path in folder.rglob(".*"):
        if _DRAFT.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _sync_folder(folder: Path) -> None:
    """Brings a folder's list of names to the disk; Windows has no such call."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def atomic_file(final: Path) -> Iterator[IO[bytes]]:
    """A binary file to fill. It takes the place of `final`, with its mode, once it is whole and on
    the disk; an error, or a kill, leaves what was there."""
    draft = _draft_of(final)
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if final.exists():
            draft.chmod(stat.S_IMODE(final.stat().st_mode))
        draft.replace(final)
        _sync_folder(final.parent)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def atomic_folder(final: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill. It becomes `final` once its files are on the disk. Where `final` is there
    already, `replace` puts the new one in its place (a kill between the two leaves the older one
    beside it, which the next call puts back); without it the older one stays, as that of another
    process that was first."""
    draft = _draft_of(final)
    if replace:
        _put_back(final)
    draft.mkdir()
    try:
        yield draft
        readable = draft.stat().st_mode & 0o666  # safetensors writes files that only we can read
        for path in draft.rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.chmod(readable)
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        _sync_folder(draft)
        _put_folder(draft, final, replace=replace)
        _sync_folder(final.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _older(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")


def _put_back(final: Path) -> None:
    """Ends what a kill interrupted while `final` was replaced."""
    old = _older(final)
    if not final.exists() and old.is_dir():
        old.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _put_folder(draft: Path, final: Path, *, replace: bool) -> None:
    if replace and final.exists():
        old = _older(final)
        final.rename(old)
        draft.rename(final)
        shutil.rmtree(old, ignore_errors=True)
        return
    try:
        draft.rename(final)
    except OSError:
        if not final.is_dir():
            raise


def write_text(path: Path, text: str) -> None:
    """Writes a text as UTF-8, as `atomic_file` does."""
    with atomic_file(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Writes a mapping as indented JSON, as `atomic_file` does."""
    write_text(path, json.dumps(data, indent=2) + "\n")
