"""Loads a model folder's tokenizer, also where transformers is too old for the folder.

Petals lives with transformers 4.33 and tokenizers 0.13. Folders that transformers 5 has written
name a class that 4.33 does not know (`TokenizersBackend`), and their tokenizer.json has a form that
0.13 cannot read; `old_form` writes it the old way, with the same tokens (tests/swarm).
"""

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accept_llm.errors import RecipeError
from accept_llm.models.tokenizer_files import TOKENIZERS, reading, too_many_tokens
from accept_llm.storage import read_json

TOKENIZER = "tokenizer.json"
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")
TEXTS = ("A text, 1 of 2.", "é")  # which every tokenizer must read
_SPACE = "▁"
_TWO = "^▁▁"


def is_old(package: str = "transformers", before: int = 5) -> bool:
    """Whether this environment is the one of Petals, with its old transformers."""
    return int(version(package).split(".")[0]) < before


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a folder; RecipeError where this transformers cannot read it."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if not is_old():
        with reading(folder):
            _check_class(folder)
            # A text that holds "</s>" is a text: its characters, not the token that ends one.
            found = AutoTokenizer.from_pretrained(folder, split_special_tokens=True)
            return _without_special_pieces(found)
    if not (folder / TOKENIZER).is_file():
        return _one_space_first(AutoTokenizer.from_pretrained(folder))
    from tokenizers import Tokenizer

    try:
        backend = Tokenizer.from_str(json.dumps(old_form(read_json(folder / TOKENIZER))))
    except Exception as error:  # tokenizers raises plain Exception
        raise RecipeError(
            [
                f"model: tokenizers {version('tokenizers')} cannot read {folder / TOKENIZER}: "
                f"{error}; this environment can have no newer one"
            ]
        ) from None
    return PreTrainedTokenizerFast(tokenizer_object=backend, **_settings(folder))


def _check_class(folder: Path) -> None:
    """RecipeError where transformers 5 would make a tokenizer of another class than the one that is
    named, or one of an empty vocabulary."""
    from transformers import __version__
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    name, path = _class_name(folder)
    if name is None:
        return
    got, cls = f"model: {path}: tokenizer_class: got {name!r}", tokenizer_class_from_name(name)
    if cls is None:
        why = f"which transformers {__version__} does not have"
        can = "TokenizersBackend, which takes everything from tokenizer.json"
        raise RecipeError([f"{got}, {why}; allowed: one of its classes, such as {can}"])
    files = dict.fromkeys(getattr(cls, "vocab_files_names", {}).values())
    wanted = [file for file in files if file != TOKENIZER] or ["tokenizer.model"]
    if not any((folder / file).is_file() for file in (TOKENIZER, *wanted)):
        found = ", ".join(file for file in TOKENIZERS if (folder / file).is_file())
        why = f"which reads {', '.join(wanted)} or {TOKENIZER}; there: {found}"
        raise RecipeError([f"{got}, {why}; allowed: the class that these files were saved by"])


def _class_name(folder: Path) -> tuple[str | None, Path]:
    """The class of the tokenizer, and the file that names it, in transformers' order."""
    for path in (folder / "tokenizer_config.json", folder / "config.json"):
        name = read_json(path).get("tokenizer_class") if path.is_file() else None
        if name:
            return name, path
    return None, folder


def _without_special_pieces(tokenizer: Any) -> Any:
    """Cuts a special token's text behind its first letter, where the model has it as a piece too
    (T5's has; sentencepiece itself takes none from a text)."""
    from tokenizers import Regex, pre_tokenizers

    special = dict.fromkeys(tokenizer.all_special_tokens)
    added = tokenizer.added_tokens_decoder.values()
    names = list(special | dict.fromkeys(token.content for token in added if token.special))
    found = tokenizer(names, add_special_tokens=False)["input_ids"] if names else []
    ids = tokenizer.convert_tokens_to_ids(names)
    pieces = [n for n, own, i in zip(names, found, ids, strict=True) if i in own and len(n) > 1]
    if pieces:
        cuts = "|".join(f"{re.escape(n[0])}(?={re.escape(n[1:])})" for n in pieces)
        cut = pre_tokenizers.Split(Regex(cuts), "isolated")
        before = tokenizer.backend_tokenizer.pre_tokenizer
        both = pre_tokenizers.Sequence([before, cut]) if before else cut
        tokenizer.backend_tokenizer.pre_tokenizer = both
    return tokenizer


def check_tokens(tokenizer: Any, folder: Path, *, vocabulary: int) -> None:
    """RecipeError where a tokenizer cannot make tokens of a text, or makes some that a model of so
    many embeddings does not have, the one that ends a text too."""
    with reading(folder):
        ids = [i for text in tokenizer(list(TEXTS))["input_ids"] for i in text]
    largest = {"a text": max(ids, default=0), "eos_token": tokenizer.eos_token_id or 0}
    problems = [
        f"{folder} has token {token} for {name}, and embeddings for {vocabulary}; needed: one each"
        for name, token in largest.items()
        if token >= vocabulary
    ]
    problems += too_many_tokens(folder, plain_tokens(tokenizer), vocabulary=vocabulary)
    if problems:
        raise RecipeError([f"model: {line}" for line in problems])


def plain_tokens(tokenizer: Any) -> int:
    """One more than the largest id of a token that a text may become."""
    special = set(tokenizer.all_special_ids)
    added = getattr(tokenizer, "added_tokens_decoder", {})  # 4.33 has none of fast tokenizers
    special |= {i for i, token in added.items() if token.special}
    return max(i for i in tokenizer.get_vocab().values() if i not in special) + 1


def _one_space_first(tokenizer: Any) -> Any:
    """Made from tokenizer.model: 4.33 puts a space before a text that begins with one already."""
    from tokenizers import Regex, normalizers

    backend = tokenizer.backend_tokenizer
    if b"Prepend" in backend.normalizer.__getstate__():
        once = normalizers.Replace(Regex(_TWO), _SPACE)
        backend.normalizer = normalizers.Sequence([backend.normalizer, once])
    return tokenizer


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    config = read_json(path) if path.is_file() else {}
    found = {name: config.get(name) for name in _SPECIAL}
    special = {
        name: token["content"] if isinstance(token, dict) else token
        for name, token in found.items()
        if token is not None
    }
    # Where nothing is said, 4.33 takes spaces out of decoded text, and 5 does not.
    clean = bool(config.get("clean_up_tokenization_spaces", False))
    return {**special, "clean_up_tokenization_spaces": clean}


def old_form(new: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json as tokenizers 0.13 reads it; ValueError for what it cannot express."""
    model = {k: v for k, v in new["model"].items() if k != "ignore_merges"}
    if new["model"].get("ignore_merges"):
        raise ValueError("its BPE ignores merges, which it cannot do")
    if any(not isinstance(merge, str) for merge in model.get("merges", ())):
        if any(" " in part for merge in model["merges"] for part in merge):
            raise ValueError("a merge has a space in it")
        model["merges"] = [" ".join(merge) for merge in model["merges"]]
    old = {**new, "model": model}
    splits = new.get("pre_tokenizer") or {}
    if splits.get("type") == "Metaspace" and splits.get("split") is False:
        # Without splitting it only writes spaces another way, which normalizers do as well.
        parts = [new["normalizer"]] if new.get("normalizer") else []
        parts.append({"type": "Replace", "pattern": {"String": " "}, "content": _SPACE})
        if splits.get("prepend_scheme", "always") != "never":
            parts.append({"type": "Prepend", "prepend": _SPACE})
            parts.append({"type": "Replace", "pattern": {"Regex": _TWO}, "content": _SPACE})
        old["normalizer"] = {"type": "Sequence", "normalizers": parts}
        old["pre_tokenizer"] = None
    else:
        old["pre_tokenizer"] = _old_metaspace(splits or None)
    old["decoder"] = _old_metaspace(new.get("decoder"))
    return old


def _old_metaspace(part: Any) -> Any:
    """`prepend_scheme` was a yes or no; in a sequence too."""
    if not isinstance(part, dict):
        return part
    for name in ("pretokenizers", "decoders"):
        if name in part:
            return {**part, name: [_old_metaspace(item) for item in part[name]]}
    if part.get("type") != "Metaspace" or "add_prefix_space" in part:
        return part
    return {
        "type": "Metaspace",
        "replacement": part["replacement"],
        "str_rep": part["replacement"],
        "add_prefix_space": part.get("prepend_scheme", "always") != "never",
    }
