"""The folders that the environment names, and writing files and folders so that a kill cannot leave
them half done.
"""

import atexit
import errno
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from accept_llm.drafts import draft_of, lock_file
from accept_llm.errors import RecipeError, short
from accept_llm.ranks import is_first

# --- the folders of the environment -----------------------------------------------------

T = TypeVar("T")
_spare: list[Path] = []

DATA_DIR = "ACCEPT_DATA_DIR"
MODEL_DIR = "ACCEPT_MODEL_DIR"
CACHE_DIR = "ACCEPT_CACHE_DIR"


def home_path(path: str | Path) -> Path:
    """The path with `~` as the home folder; RecipeError where nobody knows such a home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        got = f"got {short(str(path))}, which begins with a home folder that is not known"
        raise RecipeError([f"path: {got}; allowed: ~, an existing user's, or ./~..."]) from None


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
    except (RecipeError, RuntimeError) as error:  # no home folder
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


def in_cache(make: Callable[[Path], T]) -> T:
    """What `make` makes in the cache; where it cannot write there, in a folder that this process
    alone has, with a note."""
    cache = writable_cache()
    try:
        return make(cache)
    except OSError as error:
        return make(_spare_cache(f"{error.filename or cache}: {error.strerror or error}"))


def _spare_cache(why: str) -> Path:
    """One folder for all of a process; why the first was made is said."""
    if not _spare:
        folder = Path(tempfile.mkdtemp(prefix="accept_llm-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        _spare.append(folder)
        todo = f"what would be kept is made in {folder} for this process alone"
        say(f"there is no cache ({why}); {todo}")
    return _spare[0]


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


def _sync_folder(folder: Path) -> None:
    """Brings a folder's list of names to the disk; Windows has no such call."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_RUST = re.compile(r"\(os error (\d+)\)")


@contextmanager
def native_errors() -> Iterator[None]:
    """Makes an OSError of the error of a library in Rust, whose class says nothing of a disk."""
    try:
        yield
    except Exception as error:
        number = _RUST.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


@contextmanager
def atomic_file(final: Path, *, replace: bool = True) -> Iterator[IO[bytes]]:
    """A binary file to fill. It takes the place of `final`, with its mode, once it is whole and on
    the disk; an error, or a kill, leaves what was there. Without `replace`, FileExistsError where
    there is something."""
    with draft_of(final, Path.touch) as draft:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if not replace:
            _refuse_existing(final)
        if final.exists():
            draft.chmod(stat.S_IMODE(final.stat().st_mode))
            draft.replace(final)
            _sync_folder(final.parent)
        else:
            _put_new(draft, final)


@contextmanager
def atomic_folder(final: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill. It becomes `final` once its files are on the disk. Where `final` is there
    already, `replace` puts the new one in its place (a kill between the two leaves the older one
    beside it, where `whole_folder` finds it); without it the older one stays, as that of another
    process that was first."""
    if replace:
        _put_back(final)
    with draft_of(final, Path.mkdir) as draft:
        yield draft
        readable = draft.stat().st_mode & 0o666  # safetensors writes files that only we can read
        for path in draft.rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.chmod(readable)
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        _sync_folder(draft)
        if not _put_folder(draft, final, replace=replace):
            shutil.rmtree(draft, ignore_errors=True)


def _put_new(draft: Path, final: Path) -> None:
    """Gives a draft its name where nothing has it; takes the name back where it cannot be brought
    to the disk, so that an error means that there is nothing."""
    draft.rename(final)
    try:
        _sync_folder(final.parent)
    except OSError:
        final.rename(draft)
        raise


def _older(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")


def whole_folder(final: Path) -> Path:
    """The folder, or the older one where a kill came between the two renames of a replacement."""
    old = _older(final)
    return old if old.is_dir() and not final.exists() else final


def _put_back(final: Path) -> None:
    """Ends what a kill interrupted while `final` was replaced."""
    old = _older(final)
    if not final.exists() and old.is_dir():
        old.rename(final)
    _remove_older(old)


def _remove_older(old: Path) -> None:
    """What cannot be removed is no loss: a note, and the next replacement tries again."""
    try:
        shutil.rmtree(old)
    except FileNotFoundError:
        pass
    except OSError as error:
        say(f"{old}, which was replaced, cannot be removed ({error.strerror or error})")


def _put_folder(draft: Path, final: Path, *, replace: bool) -> bool:
    """Whether the draft is `final` now; False where another process was first."""
    if replace and final.exists():
        old = _older(final)
        final.rename(old)
        try:
            _put_new(draft, final)
        except OSError:
            old.rename(final)
            raise
        _remove_older(old)
        return True
    try:
        _put_new(draft, final)
    except OSError:
        if not final.is_dir():
            raise
        return False
    return True


def write_text(path: Path, text: str) -> None:
    """Writes a text as UTF-8, as `atomic_file` does."""
    with atomic_file(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Writes a mapping as indented JSON, as `atomic_file` does."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def append_line(path: Path, line: str) -> None:
    """Adds a line to a file, as UTF-8 or escapes; one that is not written whole is taken back."""
    append_bytes(path, f"{line}\n".encode("utf-8", "backslashreplace"))


def append_bytes(path: Path, added: bytes) -> None:
    """Adds bytes at the end of a file: all of them, or with an error none."""
    data = memoryview(added)
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            while data:
                data = data[file.write(data) :]
        except OSError as error:
            file.truncate(size)
            raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def growing_file(final: Path) -> Iterator[Path]:
    """A file to add lines to, <final>.partial, which becomes `final` at the end; one without a line
    goes away. With an error, or a kill, the lines until then stay there, and the next process
    begins it anew. FileExistsError where `final` is there at the end, BlockingIOError where
    another process has the file."""
    partial = final.with_name(f"{final.name}.partial")
    partial.touch()
    lock = lock_file(partial, wait=False)
    try:
        partial.write_bytes(b"")
        yield partial
        if partial.stat().st_size:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            _refuse_existing(final)
            _put_new(partial, final)
    finally:
        with suppress(OSError):
            if not partial.stat().st_size:
                partial.unlink()
        if lock is not None:
            os.close(lock)


def _refuse_existing(final: Path) -> None:
    if final.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
