"""Fixtures that several test files share: real data and models where the machine has them,
and a tiny random Llama with its own tokenizer where it has nothing."""

import os
from pathlib import Path

import pytest
from support.tiny_models import write_llama, write_t5

# No test reaches for the network: what is not local is a skip or an error, never a wait.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")


def _folder_of(variable: str, holds: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: it names the folder with {holds}")
    folder = Path(value)
    if not folder.is_dir():
        pytest.skip(f"{variable}={value} is not a folder")
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """<task>/<split>.parquet of real data sets."""
    return _folder_of("ACCEPT_DATA_DIR", "real data sets")


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """Small pretrained models as Hugging Face folders."""
    return _folder_of("ACCEPT_MODEL_DIR", "pretrained models")


@pytest.fixture(scope="session")
def stories(models_dir: Path) -> Path:
    """A real Llama of 260,032 numbers that writes children's stories."""
    folder = models_dir / "stories260k"
    if not folder.is_dir():
        pytest.skip(f"{models_dir} has no stories260k")
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random fp32 Llama of two layers and a tokenizer: needs no download. Do not write to it."""
    return write_llama(tmp_path_factory.mktemp("tiny_llama"))


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random T5 v1.1: needs no download. Do not write to it."""
    return write_t5(tmp_path_factory.mktemp("tiny_t5"))


@pytest.fixture(scope="session")
def tiny_t5_tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in the way of T5 v1.0: the LM head is the embedding, and its input is scaled."""
    folder = tmp_path_factory.mktemp("tiny_t5_tied")
    return write_t5(folder, tie_word_embeddings=True, feed_forward_proj="relu")
