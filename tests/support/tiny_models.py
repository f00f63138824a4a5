"""Tiny random models with a tokenizer of their own, for tests that have nothing else."""

import json
from pathlib import Path

TEXT = """
the kettle boils fast and pours without a drip, and i would buy it again .
this umbrella looked strong but the first wind turned it inside out .
not a bad lamp at all: warm light, steady foot, quiet switch .
the soup was cold, the waiter was late, and the bill was wrong .
i expected little from such a cheap pen and it still disappointed me .
a lovely walk by the river, even though the rain never stopped .
the battery lasts two days, which is more than the old one ever did .
great, another zip that jams on the second morning .
sst2 sentence: rte sentence1: sentence2: boolq question: passage: sentiment: label:
positive negative yes no true false entailment contradiction neutral acceptable
""".strip().splitlines()


def save_tokenizer(folder: Path) -> int:
    """Trains a small byte-level BPE that opens with <s>, as Llama's does; returns its size.

    Like Llama's it has no padding token.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return tokenizer.get_vocab_size()


def save_sentencepiece(folder: Path, model_type: str) -> Path:
    """Trains sentencepiece's own tokenizer of "llama" or "t5" on TEXT, and saves it as transformers
    does; spiece.model beside it is the original."""
    import sentencepiece
    from transformers import LlamaTokenizer, T5Tokenizer

    t5 = model_type == "t5"
    kind = {"model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    if not t5:
        kind = {"model_type": "bpe", "byte_fallback": True, "unk_id": 0, "bos_id": 1, "eos_id": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXT, "wet/dry > 3.8"]),
        model_prefix=str(folder / ("spiece" if t5 else "tokenizer")),
        vocab_size=400,
        hard_vocab_limit=False,
        minloglevel=2,
        **kind,
    )
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    tokenizer = (T5Tokenizer if t5 else LlamaTokenizer).from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_llama(folder: Path) -> Path:
    """A random fp32 Llama of two layers and a tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=save_tokenizer(folder),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        # At the usual 0.02 attention is nearly uniform, and a wrong mask or position hides.
        initializer_range=0.15,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_t5(folder: Path, **changes: object) -> Path:
    """A random fp32 T5 v1.1 (gated, with an LM head of its own) of two layers a stack, and a
    tokenizer that pads, as T5's does."""
    import torch
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    vocabulary = save_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = "<unk>"
    tokenizer.save_pretrained(folder)
    sizes = {
        **{"vocab_size": vocabulary, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_heads": 4},
        **{"num_layers": 2, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        **{"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0},
        **{"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lm = T5ForConditionalGeneration(T5Config(**(sizes | changes)))
        if not changes.get("tie_word_embeddings", False):  # T5Config ties, whatever it is told
            lm.lm_head.weight = torch.nn.Parameter(0.3 * torch.randn_like(lm.shared.weight))
        for name, parameter in lm.named_parameters():
            # As drawn, attention is nearly uniform, and a wrong mask or position hides.
            if "relative_attention_bias" in name or ".q." in name or ".k." in name:
                parameter.data.mul_(3)
    lm.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = bool(changes.get("tie_word_embeddings", False))
    (folder / "config.json").write_text(json.dumps(config))
    return folder
