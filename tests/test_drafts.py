"""What a failed write takes back, and how what a kill has left is found; test_write_faults.py has
the same at each call of whole commands."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from accept_llm import storage
from accept_llm.storage import (
    append_line,
    atomic_file,
    atomic_folder,
    growing_file,
    in_cache,
    native_errors,
    whole_folder,
    write_text,
)

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full(*_: object) -> None:
    raise FULL


def fill(final: Path, text: str) -> None:
    with atomic_folder(final, replace=True) as draft:
        (draft / "x").write_text(text)


def test_a_folder_that_cannot_take_its_place_leaves_the_older_one(tmp_path, monkeypatch):
    final, rename = tmp_path / "a", Path.rename
    fill(final, "1")
    monkeypatch.setattr(
        Path,
        "rename",
        lambda a, b: full() if a.name.startswith(".a.") and "old" not in a.name else rename(a, b),
    )
    with pytest.raises(OSError, match="No space"):
        fill(final, "2")
    assert (final / "x").read_text() == "1"
    assert list(tmp_path.iterdir()) == [final]


def test_between_two_renames_the_older_folder_is_found(tmp_path):
    final = tmp_path / "a"
    fill(final, "1")
    assert whole_folder(final) == final
    final.rename(tmp_path / ".a.old")
    assert (whole_folder(final) / "x").read_text() == "1"
    fill(final, "2")
    assert whole_folder(final) == final
    assert list(tmp_path.iterdir()) == [final]


def test_the_draft_of_a_dead_process_goes_away_and_that_of_a_living_one_stays(tmp_path):
    code = "import sys, os, pathlib; from accept_llm.storage import *\n"
    code += (
        "with atomic_file(pathlib.Path(sys.argv[1])) as f: f.write(b'half'); f.flush(); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=False)
    (dead,) = tmp_path.iterdir()
    with atomic_file(tmp_path / "a") as first:
        assert not dead.exists()
        first.write(b"1")
        write_text(tmp_path / "a", "2")
        write_text(tmp_path / "b", "3")
    assert (tmp_path / "a").read_text() == "1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_name_that_does_not_reach_the_disk_is_taken_back(tmp_path, monkeypatch):
    """An error means that there is nothing, so that the same command can be given again."""
    monkeypatch.setattr(storage, "_sync_folder", full)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "a", "1")
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_does_not_fit_is_taken_back(tmp_path, monkeypatch):
    import io

    path = tmp_path / "lines"
    append_line(path, "first \udc80")
    real = io.FileIO

    class Half(real):
        def write(self, data):
            return real.write(self, data[:3]) if self.tell() == size else full()

    size = path.stat().st_size
    monkeypatch.setattr(Path, "open", lambda self, mode, buffering: Half(self, "a"))
    with pytest.raises(OSError, match="No space") as caught:
        append_line(path, "second")
    assert caught.value.filename == str(path)
    monkeypatch.undo()
    assert path.read_text() == "first \\udc80\n"


def grow(final: Path, *lines: str, error: OSError | None = None) -> None:
    with growing_file(final) as file:
        for line in lines:
            append_line(file, line)
        if error:
            raise error


def test_a_growing_file_is_there_at_its_end(tmp_path):
    final, partial = tmp_path / "a", tmp_path / "a.partial"
    with pytest.raises(OSError, match="No space"):
        grow(final, "1", error=FULL)
    assert partial.read_text() == "1\n"
    grow(final)
    assert list(tmp_path.iterdir()) == []
    grow(final, "1", "2")
    assert final.read_text() == "1\n2\n"
    with pytest.raises(FileExistsError):
        grow(final, "3")
    assert final.read_text() == "1\n2\n"


def test_two_processes_do_not_write_one_growing_file(tmp_path):
    with growing_file(tmp_path / "a") as file:
        append_line(file, "1")
        with pytest.raises(BlockingIOError):
            grow(tmp_path / "a", "2")
    assert (tmp_path / "a").read_text() == "1\n"


def test_a_cache_that_fills_up_is_done_without(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCEPT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "_spare", [])

    def make(cache: Path) -> Path:
        if cache == tmp_path / "cache":
            full()
        return cache

    found = in_cache(make)
    assert found.is_dir()
    assert in_cache(make) == found
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(
        f"note: there is no cache ({tmp_path / 'cache'}: No space left on device)"
    )


def test_errors_of_libraries_in_rust_are_the_systems(tmp_path):
    from tokenizers import Tokenizer, models

    def save_tensors() -> None:
        save_file({}, tmp_path / "none" / "x")

    for save in (save_tensors, lambda: Tokenizer(models.BPE()).save(str(tmp_path / "none" / "x"))):
        with pytest.raises(FileNotFoundError), native_errors():
            save()
    with pytest.raises(ZeroDivisionError), native_errors():
        _ = 1 / 0
