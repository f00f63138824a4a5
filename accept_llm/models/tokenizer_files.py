"""What the files of a tokenizer must be, read without the library that reads them to tokenise."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accept_llm.errors import RecipeError, short
from accept_llm.storage import read_json

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json")
_READ = (
    *TOKENIZERS,
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("generation_config.json", "merges.txt"),
)
_LFS = b"version https://git-lfs"


def tokenizer_problems(folder: Path, vocabulary: int | None) -> list[str]:
    """What is wrong with the tokenizer beside a model of so many embeddings, if that is known."""
    if not any((folder / name).is_file() for name in TOKENIZERS):
        return [f"{folder} has no tokenizer; needed: one of {', '.join(TOKENIZERS)}"]
    files = sorted(path for path in folder.iterdir() if path.name in _READ and path.is_file())
    problems = [problem for path in files if (problem := _problem(path))]
    if problems:
        return problems
    try:
        tokens = _tokens(folder)
    except (AttributeError, TypeError, ValueError):
        what = "tokenizer.json and tokenizer_config.json are not as transformers writes them"
        return [f"{folder}: {what}; copy or download them again"]
    return _setting_problems(folder) + too_many_tokens(folder, tokens, vocabulary=vocabulary)


def _setting_problems(folder: Path) -> list[str]:
    """What no library checks in tokenizer_config.json, and every call of a tokenizer reads."""
    path, problems = folder / "tokenizer_config.json", []
    settings = read_json(path) if path.is_file() else {}
    longest, name = settings.get("model_max_length"), settings.get("tokenizer_class")
    if longest is not None and not (isinstance(longest, int | float) and longest > 0):
        got = f"{path}: model_max_length: got {short(longest)}"
        problems.append(f"{got}; needed: a number above 0, or none")
    if name is not None and not isinstance(name, str):
        got = f"{path}: tokenizer_class: got {short(name)}"
        problems.append(f"{got}; needed: the name of a class, or none")
    return problems


def too_many_tokens(folder: Path, tokens: int, *, vocabulary: int | None) -> list[str]:
    """A line where a tokenizer has more tokens than the model has embeddings."""
    if vocabulary is None or tokens <= vocabulary:
        return []
    got = f"{folder} has a tokenizer of {tokens} tokens, and embeddings for {vocabulary}"
    return [f"{got}; needed: one each (resize_token_embeddings, then save_pretrained, makes them)"]


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """What a library raises that reads the tokenizer of a folder, or uses it, as a RecipeError."""
    try:
        yield
    except RecipeError:
        raise
    except Exception as error:  # tokenizers raises plain Exceptions, others whatever they like
        why = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        message = f"model: the tokenizer in {folder} cannot be read ({why})"
        raise RecipeError([f"{message}; allowed: one as transformers saves it"]) from None


def _problem(path: Path) -> str | None:
    """Why a file cannot be what it is called: cut, a pointer of Git LFS, or a web page."""
    with path.open("rb") as file:
        start = file.read(len(_LFS))
    if start == _LFS:
        return f"{path} is a pointer of Git LFS, not the file; `git lfs pull` gets it"
    if start.lstrip().startswith(b"<"):
        return f"{path} is no tokenizer: it begins as a web page does; download it again"
    if not start:
        return f"{path} is empty; copy or download it again"
    if path.suffix == ".json":
        try:
            read_json(path)
        except ValueError as error:
            return str(error)
    return None


def _tokens(folder: Path) -> int:
    """One more than the largest id that JSON files name; 0 where they name none. Special tokens do
    not count: no text becomes one, and some models have no embedding for theirs (Gemma 3's image).
    """
    ids: list[Any] = []
    if (folder / "tokenizer.json").is_file():
        found = read_json(folder / "tokenizer.json")
        added = found.get("added_tokens") or []
        ids += [token.get("id") for token in added if not token.get("special")]
        words = (found.get("model") or {}).get("vocab") or {}
        ids += list(words.values()) if isinstance(words, dict) else [len(words) - 1]
    if (folder / "tokenizer_config.json").is_file():
        listed = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
        ids += [int(number) for number, token in listed.items() if not token.get("special")]
    return max((i for i in ids if isinstance(i, int)), default=-1) + 1
