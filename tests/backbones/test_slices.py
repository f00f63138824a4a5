"""Rows of safetensors files, and models whose parameters are filled from them on three ranks."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.runs import FORKSERVER, finish, free_port
from torch import Tensor

from accept_llm.backbones import slices
from accept_llm.backbones.loading import UNSHARDED, load_sharded, load_whole
from accept_llm.backbones.slices import Checkpoint
from accept_llm.errors import RecipeError
from accept_llm.models.folder import ModelInfo, check_folder
from accept_llm.recipe.model import FolderModel

CPU = torch.device("cpu")
SHAPES = {"matrix": (7, 5), "vector": (11,), "cube": (4, 3, 2), "row": (1, 9), "empty": (0, 4)}


def numbers(dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(shape, generator=draw) * 9 for name, shape in SHAPES.items()}
    return {f"{name}.{dtype}": tensor.to(dtype) for name, tensor in made.items()}


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Three files, each with its own dtype, and a fourth that is not asked for."""
    found = []
    for seed, dtype in enumerate([torch.float32, torch.float16, torch.bfloat16, torch.int8]):
        found.append(tmp_path / f"{seed}.safetensors")
        save_file(numbers(dtype, seed), found[-1], metadata={"format": "pt"})
    return found[:3]


@pytest.mark.parametrize("chunk", [16, slices.CHUNK])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_are_safetensors_own(monkeypatch, files, dtype, chunk):
    """In the stored dtype and in others, in one piece and in many."""
    monkeypatch.setattr(slices, "CHUNK", chunk)
    checkpoint = Checkpoint(files)
    want = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert checkpoint.names == want.keys()
    for name, tensor in want.items():
        assert checkpoint.shape(name) == tuple(tensor.shape)
        n = len(tensor)
        for start, stop in {(0, n), (0, n // 2), (n // 2, n), (n, n)}:
            out = torch.full(tensor[start:stop].shape, 7, dtype=dtype)
            checkpoint.read_rows(name, start, out=out)
            assert torch.equal(out, tensor[start:stop].to(dtype)), (name, start, stop)


def test_a_read_changes_nothing_beside_its_rows(files):
    whole = torch.zeros(9, 5)
    Checkpoint(files).read_rows("matrix.torch.float32", 2, out=whole[4:7])
    want = load_file(files[0])["matrix.torch.float32"]
    assert torch.equal(whole[4:7], want[2:5])
    assert not whole[:4].any()
    assert not whole[7:].any()


@pytest.mark.parametrize("ranks", [1, 2, 3, 40])
def test_flat_pieces_end_in_zeros(files, ranks):
    """As DeepSpeed cuts a tensor: all pieces of one size, the last ones beyond the end."""
    want = load_file(files[0])["matrix.torch.float32"].flatten()
    size = -(-len(want) // ranks)
    pieces = torch.full((ranks, size), 7.0)
    for rank, piece in enumerate(pieces):
        Checkpoint(files).read_flat("matrix.torch.float32", rank * size, out=piece)
    assert torch.equal(pieces.flatten()[: len(want)], want)
    assert not pieces.flatten()[len(want) :].any()


def test_scalars_and_whole_numbers(tmp_path):
    stored = {"scalar": torch.tensor(2.5), "flags": torch.tensor([True, False])}
    stored["whole"] = torch.arange(3)
    save_file(stored, tmp_path / "a.safetensors")
    checkpoint = Checkpoint([tmp_path / "a.safetensors"])
    for name, tensor in stored.items():
        out = torch.zeros_like(tensor).view(-1)
        checkpoint.read_rows(name, 0, out=out)
        assert torch.equal(out, tensor.view(-1))


def test_out_must_fit(files):
    checkpoint = Checkpoint(files)
    for start, shape in [(0, (2, 4)), (0, (2,)), (6, (2, 5)), (-1, (2, 5))]:
        with pytest.raises(AssertionError):
            checkpoint.read_rows("matrix.torch.float32", start, out=torch.zeros(shape))


def test_the_later_file_counts(tmp_path):
    for value in 1, 2:
        save_file({"a": torch.full((2,), float(value))}, tmp_path / f"{value}.safetensors")
    out = torch.zeros(2)
    Checkpoint([tmp_path / "1.safetensors", tmp_path / "2.safetensors"]).read_rows("a", 0, out=out)
    assert out.tolist() == [2, 2]


def test_same(tmp_path):
    ones, other = torch.ones(3, 4), torch.ones(3, 4)
    other[-1, -1] = 2
    stored = {"a": ones, "b": ones.clone(), "c": other, "d": ones.half(), "e": ones.view(4, 3)}
    save_file({name: t.clone() for name, t in stored.items()}, tmp_path / "a.safetensors")
    checkpoint = Checkpoint([tmp_path / "a.safetensors"])
    assert [checkpoint.same("a", name) for name in "abcde"] == [True, True, False, False, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cut_file_is_named(tmp_path, dtype):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(5, 2)}, file)
    checkpoint = Checkpoint([file])
    os.truncate(file, file.stat().st_size - 6)
    out = torch.zeros(5, 2, dtype=dtype)
    checkpoint.read_rows("a", 0, out=out[:4])
    with pytest.raises(RecipeError, match=r"model: .*model\.safetensors is cut: it ends 6 bytes"):
        checkpoint.read_rows("a", 3, out=out[3:])


def test_a_read_may_give_less_than_asked(files):
    """Linux gives at most 2 GB at once."""

    class Slow:
        def __init__(self, data: bytes):
            self.data = data

        def readinto(self, out) -> int:
            part, self.data = self.data[:3], self.data[3:]
            out[: len(part)] = part
            return len(part)

    out = torch.zeros(5)
    slices._read_into(Slow(torch.arange(5.0).numpy().tobytes()), out, file=files[0])
    assert out.tolist() == [0, 1, 2, 3, 4]


def test_an_unknown_dtype_is_refused_when_it_is_read(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(4).to(torch.float8_e4m3fn), "b": torch.ones(4)}, file)
    checkpoint = Checkpoint([file])
    checkpoint.read_rows("b", 0, out=torch.zeros(4))
    with pytest.raises(RecipeError, match=r"a has dtype F8_E4M3; allowed: F64, F32"):
        checkpoint.read_rows("a", 0, out=torch.zeros(4))


# --- models over three ranks ------------------------------------------------------------

T5 = {
    **{"model_type": "t5", "vocab_size": 400, "d_model": 16, "d_kv": 2, "num_heads": 2, "d_ff": 20},
    **{"num_layers": 2, "num_decoder_layers": 3, "relative_attention_num_buckets": 8},
    **{"feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0, "pad_token_id": 0},
    **{"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
}
EMBEDDINGS = ("shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head")
# Which of T5's four names of an embedding a checkpoint has, and with which numbers.
STORED = {
    "tied": "a---",  # T5 v1.0
    "untied": "a--b",  # T5 v1.1 and Flan-T5
    "all_names": "aaab",  # Flan-T5's first files
    "all_equal": "aaaa",
    "encoder_name": "-a--",
    "decoder_name": "--a-",
    "encoder_and_decoder": "-aa-",
    "decoder_and_head": "--ab",
}


def save_t5(folder: Path, embeddings: str, tokenizer: Path) -> Path:
    """A random bf16 T5, written by hand: save_pretrained would tie the LM head."""
    from transformers import AutoConfig, T5ForConditionalGeneration

    folder.mkdir()
    config = T5 | ({} if embeddings[3] in "-a" else {"tie_word_embeddings": False})
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    lm = T5ForConditionalGeneration(AutoConfig.from_pretrained(folder)).bfloat16()
    names = [f"{name}.weight" for name in EMBEDDINGS]
    weights = {k: v.clone() for k, v in lm.state_dict().items() if k not in names}
    values = {letter: torch.randn(400, 16).bfloat16() for letter in "ab"}
    kept = zip(names, embeddings, strict=True)
    weights |= {name: values[letter].clone() for name, letter in kept if letter != "-"}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for file in tokenizer.glob("tokenizer*"):
        shutil.copyfile(file, folder / file.name)
    return folder


def info_of(folder: Path) -> ModelInfo:
    info, problems = check_folder(folder)
    assert info is not None, problems
    return info


def facts(root) -> dict:
    """What is compared: all weights, under every name, the bytes, and what the model says."""
    own = dict(root.named_parameters(remove_duplicate=False))
    full = {k: p.full_tensor() if hasattr(p, "full_tensor") else p for k, p in own.items()}
    tokens = torch.tensor([[3, 5, 7, 90]])
    calls = {"mask": torch.ones(1, 4, dtype=torch.long), "reads": "logits"}
    if "lm.shared.weight" not in own:
        calls = {"at": torch.tensor([3]), "reads": "logits"}
    return {
        "weights": {name: p.detach().clone() for name, p in full.items()},
        "numel": sum(p.numel() for p in root.parameters()),
        "logits": root(tokens, **calls).detach(),
        "scaled": getattr(root.lm.config, "scale_decoder_outputs", None),
        "rows": {k: len(p.to_local()) for k, p in own.items() if hasattr(p, "to_local")},
    }


def load_on_a_rank(folders: list[Path], out: Path, environment: dict[str, str]) -> None:
    from accept_llm.engines.fsdp2 import Fsdp2Engine

    torch.set_num_threads(1)
    os.environ |= environment
    engine = Fsdp2Engine()
    found = {}
    for folder in folders:
        spec = FolderModel(kind="folder", path=str(folder), dtype="fp32")
        root = engine.load_backbone(spec, info_of(folder), layout="padded").module
        found[folder.name] = facts(root)
        if folder.name.startswith("tiny_llama"):
            found["gathers"] = count_gathers(root)
    torch.save(found, out / f"{engine.rank}.pt")
    engine.close()


def count_gathers(root) -> list[int]:
    """All-gathers of a forward and of a backward pass of a Llama."""
    from accept_llm.engines import fsdp2

    counts, gather = [0], fsdp2.OneBuffer.__call__

    def counted(*args, **kwargs):
        counts[-1] += 1
        return gather(*args, **kwargs)

    fsdp2.OneBuffer.__call__ = counted
    prefix = torch.ones(2, 64, requires_grad=True)
    calls = {"prompt": {"prefix": prefix}, "at": torch.tensor([4]), "reads": "logits"}
    logits = root(torch.tensor([[3, 5, 7]]), **calls)
    forward, counts[-1] = counts[-1], 0
    logits.sum().backward()
    assert prefix.grad.abs().sum() > 0
    return [forward, counts[-1]]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory, tiny_llama) -> tuple[dict[str, Path], list[dict]]:
    base = tmp_path_factory.mktemp("models")
    folders = [save_t5(base / name, kept, tiny_llama) for name, kept in STORED.items()]
    folders.append(tiny_llama)
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environment |= {"WORLD_SIZE": "3", "ACCELERATE_USE_CPU": "true"}
    ranks = []
    for rank in range(3):
        own = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        ranks.append(FORKSERVER.Process(target=load_on_a_rank, args=(folders, base, own)))
        ranks[-1].start()
    assert finish(*ranks) == [0, 0, 0]
    found = [torch.load(base / f"{rank}.pt") for rank in range(3)]
    return {folder.name: folder for folder in folders}, found


@pytest.mark.parametrize("kind", [*STORED, "tiny_llama0"])
def test_shards_are_from_pretraineds_model(loaded, kind):
    """3 divides none of the sizes, and a rank may have no row of a tensor."""
    folders, ranks = loaded
    whole = load_whole(info_of(folders[kind]), dtype="fp32", layout="padded", device=CPU)
    want = facts(whole.module)
    for rank, got in enumerate(ranks):
        got = got[kind]
        assert got["weights"].keys() == want["weights"].keys()
        for name, weight in want["weights"].items():
            assert torch.equal(got["weights"][name], weight), name
            rows = [len(part) for part in weight.chunk(3)] + [0, 0]
            assert got["rows"][name] == rows[rank], name
        torch.testing.assert_close(got["logits"], want["logits"], rtol=1e-5, atol=1e-5)
        assert got["scaled"] == want["scaled"]
        assert got["numel"] == want["numel"]


@pytest.mark.parametrize(("kind", "scaled"), [("tied", True), ("untied", False)])
def test_t5s_head(loaded, kind, scaled):
    folders, ranks = loaded
    stored = load_file(folders[kind] / "model.safetensors")
    weights = ranks[0][kind]["weights"]
    head = stored.get("lm_head.weight", stored["shared.weight"])
    assert torch.equal(weights["lm.lm_head.weight"], head.float())
    assert torch.equal(weights["lm.decoder.embed_tokens.weight"], stored["shared.weight"].float())
    assert ranks[0][kind]["scaled"] is scaled


def test_a_layer_is_gathered_once_forward_and_once_backward(loaded):
    """Two layers, the norm and the LM head, and for the forward pass the embedding."""
    _, ranks = loaded
    assert [rank["gathers"] for rank in ranks] == [[5, 4]] * 3


def test_another_shape_than_the_configs_is_refused(tmp_path, tiny_llama):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 1}))
    said = r"model: .*[kv]_proj.weight as \[32, 64\], but its config.json makes it \[16, 64\]"
    with pytest.raises(RecipeError, match=said):
        load_sharded(
            *[info_of(folder)],
            **{"dtype": "fp32", "layout": "padded", "device": CPU},
            sharding=UNSHARDED,
        )
