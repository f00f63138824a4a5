"""Model folders whose files do not go together, or whose values no model can have; each is refused
before a weight is loaded."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.families import model_of, save_family
from support.tiny_models import save_sentencepiece

from accept_llm.backbones.empty import make_empty
from accept_llm.backbones.loading import load_backbone
from accept_llm.errors import RecipeError
from accept_llm.models.config import ACTIVATIONS, PADDING
from accept_llm.models.families import PADDED, read_config
from accept_llm.models.find import inspect_model
from accept_llm.models.folder import ModelInfo
from accept_llm.models.tokenizer import check_tokens, load_tokenizer
from accept_llm.plan.lengths import count_tokens
from accept_llm.recipe.model import FolderModel

CPU = torch.device("cpu")


@pytest.fixture
def llama(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "llama"))


@pytest.fixture
def t5(tiny_t5: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_t5, tmp_path / "t5"))


def edit(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


def look(folder: Path) -> ModelInfo:
    info = inspect_model(FolderModel(kind="folder", path=str(folder)))
    assert info is not None
    return info


def refused(folder: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        look(folder)
    return "\n".join(caught.value.problems)


def loaded(folder: Path, **more: Any) -> Any:
    spec = FolderModel(kind="folder", path=str(folder), dtype="fp32", **more)
    info = look(folder)
    return load_backbone(spec, info, layout="padded", device=CPU, sharding=None)


# --- config.json ------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 3, 2**31])
def test_layers_of_the_config_and_of_the_weights(llama: Path, t5: Path, layers: int) -> None:
    edit(llama / "config.json", num_hidden_layers=layers)
    said = f"config.json says {layers} hidden layers, and the weights have 2; they must agree"
    assert said in refused(llama)
    edit(t5 / "config.json", num_decoder_layers=layers)
    assert f"config.json says {layers} decoder layers, and the weights" in refused(t5)


def test_two_numbers_of_layers(llama: Path) -> None:
    """Only a family's own name counts for transformers, and which that is, it alone knows."""
    edit(llama / "config.json", n_layers=1)
    assert "config.json has num_hidden_layers 2 and n_layers 1; they must agree" in refused(llama)


def test_the_layers_of_a_vision_tower_count_for_nothing(llama: Path) -> None:
    weights = load_file(llama / "model.safetensors")
    weights["vision_tower.encoder.layers.26.norm.weight"] = torch.ones(4)
    save_file(weights, llama / "model.safetensors", metadata={"format": "pt"})
    assert look(llama).layers == 2


def test_layers_that_predict_further_tokens_count_for_nothing(llama: Path) -> None:
    edit(llama / "config.json", num_hidden_layers=1, num_nextn_predict_layers=1)
    assert look(llama).layers == 1
    edit(llama / "config.json", num_hidden_layers=3)
    assert "config.json says 3 hidden layers, and the weights have 2" in refused(llama)


@pytest.mark.parametrize("family", PADDED)
def test_layers_of_every_family(tmp_path: Path, tiny_llama: Path, family: str) -> None:
    """A checkpoint of two would be read as one of its first layer alone."""
    config = json.loads((save_family(tmp_path, tiny_llama, family) / "config.json").read_text())
    names = {"num_hidden_layers", "n_layer", "n_layers", "num_layers"} & set(config)
    edit(tmp_path / "config.json", **dict.fromkeys(names, 1))
    assert "config.json says 1 hidden layers, and the weights have 2" in refused(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decoder_start_token_id": -1}, "decoder_start_token_id -1; needed: a token from 0 to"),
        ({"decoder_start_token_id": "0"}, "decoder_start_token_id '0'; needed"),
        ({"decoder_start_token_id": 10**30}, "decoder_start_token_id 1000"),
        ({"relative_attention_num_buckets": 1}, "relative_attention_num_buckets 1; needed: a wh"),
        ({"relative_attention_max_distance": 0}, "relative_attention_max_distance 0; needed: a"),
        ({"relative_attention_max_distance": 4}, "a whole number above 4, half the buckets"),
        ({"relative_attention_max_distance": [9]}, "relative_attention_max_distance [9]; needed"),
    ],
)
def test_what_t5_needs_of_its_config(t5: Path, changes: dict[str, Any], said: str) -> None:
    edit(t5 / "config.json", **changes)
    assert said in refused(t5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_act": "sliu"}, "config.json: hidden_act: got 'sliu', did you mean 'silu'? allow"),
        ({"hidden_act": "foo"}, "config.json: hidden_act: got 'foo'; allowed: gelu, gelu_10, "),
        ({"hidden_act": 3}, "config.json: hidden_act: got 3; allowed: gelu, "),
        ({"pad_token_id": 600}, "config.json: pad_token_id: got 600; allowed: a token from 0 to "),
        ({"pad_token_id": "1"}, "config.json: pad_token_id: got '1'; allowed: a token from 0 to "),
        ({"num_attention_heads": 0}, "num_attention_heads: got 0; allowed: a whole number above 0"),
        ({"head_dim": "16"}, "head_dim: got '16'; allowed: a whole number above 0"),
        (
            {"intermediate_size": 64},
            "config.json: intermediate_size: got 64, but model.layers.0.mlp.gate_proj.weight is "
            "[128, 64]; they must agree",
        ),
    ],
)
def test_values_that_transformers_refuses_late(
    llama: Path, changes: dict[str, Any], said: str
) -> None:
    edit(llama / "config.json", **changes)
    assert said in refused(llama)


@pytest.mark.parametrize("value", [None, -1, 0])
def test_padding_tokens_that_it_takes(llama: Path, value: int | None) -> None:
    edit(llama / "config.json", pad_token_id=value)
    assert make_empty(look(llama), torch.float32)


def test_the_activations_and_paddings_are_transformers_own() -> None:
    from transformers.activations import ACT2CLS

    assert set(ACTIVATIONS) == set(ACT2CLS)
    for family in PADDED:
        if family in PADDING:
            with pytest.raises(AssertionError, match="Padding_idx must be within num_embeddings"):
                model_of(family, pad_token_id=600)
        else:
            assert model_of(family, pad_token_id=600)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"rms_norm_eps": "tiny"},
            "(StrictDataclassFieldValidationError: Validation error for field 'rms_norm_eps': "
            "TypeError: Field 'rms_norm_eps' expected float, got str (value: 'tiny')); "
            "rms_norm_eps: got 'tiny'",
        ),
        ({"layer_types": ["a", "b"]}, "but got ['a', 'b']); layer_types: got ['a', 'b']"),
        ({"num_attention_heads": 5}, "is not a multiple of the number of attention heads (5).)"),
    ],
)
def test_a_known_type_with_a_wrong_value(llama: Path, changes: dict[str, Any], said: str) -> None:
    """The whole of what the library says, and not the types that it knows."""
    edit(llama / "config.json", **changes)
    with pytest.raises(RecipeError) as caught:
        read_config(look(llama))
    (problem,) = caught.value.problems
    assert said in problem
    assert "allowed: a type" not in problem


def test_a_config_that_makes_no_model(llama: Path) -> None:
    edit(llama / "config.json", rope_parameters={"rope_type": "nothing", "rope_theta": 1.0})
    with pytest.raises(RecipeError, match=r"config\.json: transformers cannot make a model of it"):
        make_empty(look(llama), torch.float32)


@pytest.mark.parametrize("more", [{}, {"quantization": "int8"}])
def test_weights_of_another_shape(llama: Path, more: dict[str, Any]) -> None:
    edit(llama / "config.json", num_key_value_heads=4)
    said = r"proj\.weight as \[.*\], but its config\.json makes it \[64, 64\]; they must agree"
    with pytest.raises(RecipeError, match=said):
        loaded(llama, **more)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_weights_that_are_no_numbers(
    kind: str, value: float, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(kind)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if "norm" in name and name.endswith("weight"))
    tensors[name][:] = value
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(RecipeError, match="its states of a text are not finite; allowed: weights"):
        loaded(folder)


# --- the index and the tokenizer --------------------------------------------------------


@pytest.mark.parametrize("name", [3, ["a"], None, "../other.safetensors"])
def test_an_index_that_names_no_file(llama: Path, name: Any) -> None:
    (llama / "model.safetensors").unlink()
    index = llama / "model.safetensors.index.json"
    names = {"a": "b.safetensors", "c": name}
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert "in its weight_map; needed: files beside it" in refused(llama)


@pytest.mark.parametrize("notes", [0, None, "x"])
def test_an_index_without_its_notes(llama: Path, notes: Any) -> None:
    (llama / "model.safetensors").unlink()
    index = llama / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": notes, "weight_map": {"a": "b.safetensors"}}))
    assert "index.json has metadata " in refused(llama)


@pytest.mark.parametrize("longest", ["many", [512], 0, -1, {}])
def test_a_length_that_is_no_number(llama: Path, longest: Any) -> None:
    edit(llama / "tokenizer_config.json", model_max_length=longest)
    assert "model_max_length: got " in refused(llama)


@pytest.mark.parametrize("name", [3, ["a"], {}])
def test_a_class_that_is_no_name(llama: Path, name: Any) -> None:
    edit(llama / "tokenizer_config.json", tokenizer_class=name)
    assert "tokenizer_class: got " in refused(llama)


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_a_class_that_transformers_lacks(llama: Path, file: str) -> None:
    """It would take another, silently."""
    edit(llama / "tokenizer_config.json", tokenizer_class=None)
    edit(llama / file, tokenizer_class="FooTokenizer")
    said = rf"model: .*{file}: tokenizer_class: got 'FooTokenizer', which transformers 5.* have; al"
    with pytest.raises(RecipeError, match=said):
        load_tokenizer(llama)


CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast", "GPT2TokenizerFast", None)


@pytest.mark.parametrize("name", CLASSES)
def test_classes_that_it_has(llama: Path, name: str | None) -> None:
    edit(llama / "tokenizer_config.json", tokenizer_class=name)
    assert load_tokenizer(llama)


def test_a_class_that_reads_other_files(tmp_path: Path) -> None:
    """An empty GPT-2 vocabulary beside a tokenizer of sentencepiece."""
    save_sentencepiece(tmp_path, "llama")
    (tmp_path / "tokenizer.json").unlink()
    assert load_tokenizer(tmp_path)
    edit(tmp_path / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    said = "got 'GPT2Tokenizer', which reads vocab.json, merges.txt or tokenizer.json; there: token"
    with pytest.raises(RecipeError, match=said):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("key", ["normalizer", "pre_tokenizer", "decoder", "version", "padding"])
def test_a_tokenizer_that_cannot_be_read(llama: Path, key: str) -> None:
    edit(llama / "tokenizer.json", **{key: "x"})
    with pytest.raises(RecipeError, match=r"model: the tokenizer in .*llama cannot be read \("):
        count_tokens(["a lamp"], llama)
    with pytest.raises(RecipeError, match=r"model: the tokenizer in .*llama cannot be read \("):
        load_tokenizer(llama)


def test_a_token_that_the_model_lacks(llama: Path) -> None:
    """transformers gives a special token that is not in the vocabulary a number of its own."""
    edit(llama / "tokenizer_config.json", eos_token="<new>")
    info = look(llama)
    size = info.vocab_size
    with pytest.raises(RecipeError, match=f"has token {size} for eos_token, and embeddings for"):
        check_tokens(load_tokenizer(llama), llama, vocabulary=size)


def test_the_good_folders_are_good(llama: Path, t5: Path) -> None:
    for folder in (llama, t5):
        info = look(folder)
        check_tokens(load_tokenizer(folder), folder, vocabulary=info.vocab_size)
        assert loaded(folder).vocab_size == info.vocab_size
