"""Files and folders that a kill cannot leave half done, and the folders of the environment."""

import stat
from pathlib import Path

import pytest

from accept_llm import storage
from accept_llm.errors import RecipeError
from accept_llm.storage import (
    atomic_file,
    atomic_folder,
    cache_dir,
    data_dir,
    model_dir,
    writable_cache,
    write_json,
    write_text,
)


@pytest.fixture
def spare():
    """Each test has its own spare cache."""
    storage._spare.clear()
    yield
    storage._spare.clear()


def test_a_cache_that_cannot_be_written_to_is_done_without(tmp_path, monkeypatch, capsys, spare):
    file = tmp_path / "file"
    file.write_text("no folder")
    for cache in (file, file / "below", Path("/proc/none")):
        storage._spare.clear()
        monkeypatch.setenv("ACCEPT_CACHE_DIR", str(cache))
        found = writable_cache()
        assert found.is_dir()
        assert writable_cache() == found != cache
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith(f"note: there is no cache ({cache}: ")
        assert str(found) in said


def test_no_home_folder(monkeypatch, capsys, spare):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    for name in ("ACCEPT_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert cache_dir() == writable_cache()
    assert "note: there is no cache (Could not determine home" in capsys.readouterr().err


def test_a_cache_that_can_be_written_to_is_used(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCEPT_CACHE_DIR", str(tmp_path / "new" / "cache"))
    assert writable_cache() == cache_dir() == tmp_path / "new" / "cache"
    assert capsys.readouterr().err == ""
    assert list(writable_cache().iterdir()) == []


class Torn(Exception):
    pass


def tear_file(path: Path) -> None:
    with atomic_file(path) as file:
        file.write(b"half")
        raise Torn


def tear_folder(final: Path) -> None:
    with atomic_folder(final, replace=True) as draft:
        (draft / "x").write_text("half")
        raise Torn


def replace_folder(final: Path) -> None:
    with atomic_folder(final, replace=True) as draft:
        (draft / "x").write_text("2")


def test_a_file_is_whole_or_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "below" / "a.txt"
    write_text(path, "é\n")
    assert path.read_bytes() == b"\xc3\xa9\n"
    with pytest.raises(Torn):
        tear_file(path)
    assert path.read_text() == "é\n"
    write_json(path, {"a": 1})
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_folder_is_whole_or_the_older_one(tmp_path: Path) -> None:
    final = tmp_path / "a"
    with atomic_folder(final) as draft:
        (draft / "x").write_text("1")
        assert not final.exists()
    with pytest.raises(Torn):
        tear_folder(final)
    assert (final / "x").read_text() == "1"
    with atomic_folder(final) as draft:  # another process was first
        (draft / "x").write_text("3")
    assert (final / "x").read_text() == "1"
    with atomic_folder(final, replace=True) as draft:
        (draft / "y").write_text("4")
    assert [p.name for p in final.iterdir()] == ["y"]
    assert list(tmp_path.iterdir()) == [final]


def test_a_folder_whose_replacement_was_killed_comes_back(tmp_path: Path, monkeypatch) -> None:
    """Killed when the older folder was out of the way and the new one not in its place."""
    final = tmp_path / "a"
    with atomic_folder(final) as draft:
        (draft / "x").write_text("1")
    real = Path.rename

    def killed(draft: Path, target: Path) -> None:
        if target == final:
            raise Torn
        real(draft, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(Torn):
        replace_folder(final)
    monkeypatch.undo()
    assert not final.exists()
    with pytest.raises(Torn):
        tear_folder(final)
    assert (final / "x").read_text() == "1"
    assert list(tmp_path.iterdir()) == [final]


def test_files_of_a_folder_can_be_read_by_whoever_may_read_it(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a") as draft:
        (draft / "x").write_text("1")
        (draft / "x").chmod(0o600)
    mode, around = ((tmp_path / p).stat().st_mode for p in ("a/x", "a"))
    assert stat.S_IMODE(mode) == stat.S_IMODE(around) & 0o666


def test_the_cache_folder(tmp_path: Path, monkeypatch) -> None:
    for name in ("ACCEPT_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for platform, below in (("linux", ".cache"), ("darwin", "Library/Caches")):
        monkeypatch.setattr("sys.platform", platform)
        assert cache_dir() == tmp_path / below / "accept_llm"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == tmp_path / "Library/Caches/accept_llm"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "accept_llm"
    monkeypatch.setenv("ACCEPT_CACHE_DIR", "~/mine")
    assert cache_dir() == tmp_path / "mine"


def test_the_other_folders(tmp_path: Path, monkeypatch) -> None:
    for name in ("ACCEPT_DATA_DIR", "ACCEPT_MODEL_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert (data_dir(), model_dir()) == (None, None)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ACCEPT_DATA_DIR", "~/data")
    monkeypatch.setenv("ACCEPT_MODEL_DIR", str(tmp_path))
    assert (data_dir(), model_dir()) == (tmp_path / "data", tmp_path)
    monkeypatch.setenv("ACCEPT_MODEL_DIR", str(tmp_path / "gone"))
    with pytest.raises(RecipeError, match=r"ACCEPT_MODEL_DIR: got .*; allowed: a folder of"):
        model_dir()
