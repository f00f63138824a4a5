"""Where files lie, and how they are written: our folders, and files and folders that a kill cannot
leave half done.
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accept_llm.errors import RecipeError


def write_json(path: Path, data: dict[str, Any]) -> None:
    replace_text(path, json.dumps(data, indent=2) + "\n")


def replace_text(path: Path, text: str) -> None:
    """Writes beside the old file, then puts it in its place: a kill leaves one of them whole."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A folder to fill; it becomes `final` at the end, unless another process was first."""
    final.parent.mkdir(parents=True, exist_ok=True)
    draft = final.parent / f".{final.name}.{uuid.uuid4().hex[:8]}"
    draft.mkdir()
    try:
        yield draft
        try:
            os.rename(draft, final)
        except OSError:
            if not final.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def cache_dir() -> Path:
    """Where converted and downloaded models are kept: ACCEPT_CACHE_DIR or ~/.cache/accept_llm."""
    chosen = os.environ.get("ACCEPT_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "accept_llm"


def _model_dir() -> Path | None:
    chosen = os.environ.get("ACCEPT_MODEL_DIR")
    if not chosen:
        return None
    folder = Path(chosen).expanduser()
    if not folder.is_dir():
        raise RecipeError([f"ACCEPT_MODEL_DIR: got {chosen!r}; allowed: a folder of models"])
    return folder
