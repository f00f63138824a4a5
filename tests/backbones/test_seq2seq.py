"""What models say and write, against plain transformers: one example and one answer at a time,
unpadded and without a cache. Encoder-decoders, and causal models in both layouts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.backbones import ANSWERS, CPU, close, gradients, prompt_of
from support.backbones import answered_batch as batch_of
from support.tiny_models import save_sentencepiece
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from accept_llm.backbones.base import Backbone, Generation
from accept_llm.backbones.loading import load_whole
from accept_llm.data.answers import answer_ids
from accept_llm.data.batches import Batch, pad_answers
from accept_llm.errors import RecipeError
from accept_llm.heads import Choice, Generate, LinearHead, Setting, build_head
from accept_llm.methods.base import Composed
from accept_llm.models.folder import check_folder
from accept_llm.recipe.head import ChoiceHead
from accept_llm.tasks.table import TASKS

LENGTHS = (5, 1, 9, 2, 7)
CHOICES = ((7, 2), (9, 11, 4, 2), (7, 8, 2))
MODELS = {
    "t5": ("tiny_t5", "padded"),
    "t5_tied": ("tiny_t5_tied", "padded"),
    "flan": ("flan_t5", "padded"),
    "llama_padded": ("tiny_llama", "padded"),
    "llama_packed": ("tiny_llama", "packed"),
}


class Reference:
    """Plain transformers on one example: its embeddings go in, logits come out."""

    def __init__(self, folder: Any, *, encoder_decoder: bool):
        self.encoder_decoder = encoder_decoder
        kind = AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM
        self.lm = kind.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)

    def read(self, tokens: Tensor, prompt: Composed) -> Tensor:
        x = self.lm.get_input_embeddings()(tokens)
        if prompt.offsets is not None:
            x = x + prompt.offsets[: len(tokens)]
        return x if prompt.prefix is None else torch.cat([prompt.prefix, x])

    def logits(self, x: Tensor, said: list[int]) -> Tensor:
        """Logits (len(said) + 1, V) of each next token after the input x (n, d)."""
        if self.encoder_decoder:
            start = self.lm.config.decoder_start_token_id
            inputs = torch.tensor([[start, *said]])
            return self.lm(inputs_embeds=x[None], decoder_input_ids=inputs).logits[0]
        if said:
            x = torch.cat([x, self.lm.get_input_embeddings()(torch.tensor(said))])
        return self.lm(inputs_embeds=x[None]).logits[0, -len(said) - 1 :]

    def likelihood(self, x: Tensor, answer: tuple[int, ...]) -> Tensor:
        logs = self.logits(x, list(answer[:-1])).log_softmax(-1)
        return torch.stack([row[token] for row, token in zip(logs, answer, strict=True)]).sum()

    def write(self, x: Tensor, *, limit: int, end: int) -> list[int]:
        said: list[int] = []
        while len(said) < limit:
            token = int(self.logits(x, said)[-1].argmax())
            if token == end:
                break
            said.append(token)
        return said


@pytest.fixture(scope="module")
def flan_t5(models_dir):
    folder = models_dir / "flan-t5-small-titles"
    if not folder.is_dir():
        pytest.skip(f"{models_dir} has no flan-t5-small-titles")
    return folder


@pytest.fixture(scope="module", params=MODELS)
def pair(request) -> tuple[Backbone, Reference]:
    name, layout = MODELS[request.param]
    folder = request.getfixturevalue(name)
    info, problems = check_folder(folder)
    assert info is not None, problems
    ours = load_whole(info, dtype="fp32", layout=layout, device=CPU)
    return ours, Reference(folder, encoder_decoder=info.architecture == "seq2seq")


def prompt_like(reference: Reference, **parts: bool) -> Composed:
    """As large as the model's own embeddings, so that it matters and swamps nothing."""
    weight = reference.lm.get_input_embeddings().weight
    prompt = prompt_of(weight.shape[1], **parts)
    scaled = (x if x is None else (x.detach() * weight.std()) for x in prompt_parts(prompt))
    return Composed(*(x if x is None else x.requires_grad_() for x in scaled))


def prompt_parts(prompt: Composed) -> tuple[Tensor | None, Tensor | None]:
    return prompt.prefix, prompt.offsets


def each(batch: Batch) -> list[Tensor]:
    return list(batch.tokens.split(batch.lengths.tolist()))


@pytest.mark.parametrize(("prefix", "offsets"), [(1, 1), (1, 0), (0, 1), (0, 0)])
def test_answers_are_as_likely_as_alone(pair, prefix, offsets):
    """The loss of a batch, and its gradients: every text head trains on these."""
    ours, reference = pair
    prompt = prompt_like(reference, prefix=bool(prefix), offsets=bool(offsets))
    batch = batch_of(90)
    head = Generate(max_new_tokens=8, num_beams=1, end=2)
    want = torch.stack(
        [
            -reference.likelihood(reference.read(tokens, prompt), answer)
            for tokens, answer in zip(each(batch), ANSWERS, strict=True)
        ]
    )
    got = head.losses(ours, batch, prompt=prompt)
    assert want.std() > 0.1
    close(got, want)
    for a, b in zip(gradients(got, prompt), gradients(want, prompt), strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm()  # fp32, through 16 layers


def test_choice_scores_equal_a_loop_over_pairs(pair):
    ours, reference = pair
    prompt = prompt_like(reference)
    batch = batch_of(90)
    outcome = Choice(CHOICES).outcome(ours, batch, prompt=prompt)
    want = torch.stack(
        [
            torch.stack(
                [reference.likelihood(reference.read(tokens, prompt), choice) for choice in CHOICES]
            )
            for tokens in each(batch)
        ]
    )
    assert outcome.scores is not None
    close(outcome.scores, want)
    for i, label in enumerate(batch.labels.tolist()):
        close(outcome.losses[i], -want[i, label])


def test_states_and_logits_equal_those_of_examples_alone(pair):
    """The linear head reads the decoder's first state, label words its first logits."""
    ours, reference = pair
    prompt = prompt_like(reference)
    batch = batch_of(90)
    logits, states = (ours(batch, prompt, reads=what) for what in ("logits", "states"))
    for row, state, tokens in zip(logits, states, each(batch), strict=True):
        x = reference.read(tokens, prompt)
        close(row, reference.logits(x, [])[0])
        if reference.encoder_decoder:
            start = torch.tensor([[reference.lm.config.decoder_start_token_id]])
            out = reference.lm(
                inputs_embeds=x[None], decoder_input_ids=start, output_hidden_states=True
            )
            close(state, out.decoder_hidden_states[-1][0, 0])
    head = LinearHead(ours.hidden_size, 3, bias=False)
    assert head.outcome(ours, batch, prompt=prompt).scores.shape == (5, 3)


@torch.no_grad()
def test_writing_equals_a_manual_decode_without_cache(pair):
    ours, reference = pair
    prompt = prompt_like(reference)
    batch = batch_of(90)
    free = [reference.write(reference.read(t, prompt), limit=8, end=-1) for t in each(batch)]
    end = free[0][4]  # what it writes sooner or later is taken for the end
    want = [reference.write(reference.read(t, prompt), limit=8, end=end) for t in each(batch)]
    assert len(want[0]) < 8
    assert ours.generate(batch, prompt, how=Generation(8, 1, end)) == want
    assert ours.generate(batch, prompt, how=Generation(3, 1, end)) == [row[:3] for row in want]


@torch.no_grad()
def test_beams_are_those_of_an_example_alone(pair):
    ours, reference = pair
    if not reference.encoder_decoder:
        pytest.skip("a causal model alone is what greedy writing above shows")
    prompt = prompt_like(reference)
    batch = batch_of(90)
    end = reference.lm.config.eos_token_id
    found = ours.generate(batch, prompt, how=Generation(6, 3, end))
    for row, tokens in zip(found, each(batch), strict=True):
        x = reference.read(tokens, prompt)
        out = reference.lm.generate(inputs_embeds=x[None], max_new_tokens=6, num_beams=3)
        alone = out[0, 1:].tolist()
        assert row == (alone[: alone.index(end)] if end in alone else alone)


def test_positions_count_padding(pair):
    ours, _ = pair
    packed = getattr(ours, "layout", "") == "packed"
    assert ours.positions(batch_of(90)) == (sum(LENGTHS) if packed else len(LENGTHS) * 9)


# --- the texts of labels ----------------------------------------------------------------


def test_answers_of_t5_end_like_its_labels(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(save_sentencepiece(tmp_path, "t5"))
    for text in ("yes", "not_equivalent", "3.8", "Saint Bernadette Soubirous"):
        assert (
            list(answer_ids(tokenizer, text, encoder_decoder=True))
            == (tokenizer(text)["input_ids"])
        )


def test_answers_of_a_causal_model_go_on_after_a_space(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(save_sentencepiece(tmp_path, "llama"))
    before = tokenizer("the cat sat. answer:")["input_ids"]
    ids = answer_ids(tokenizer, "on a mat", encoder_decoder=False)
    whole = tokenizer("the cat sat. answer: on a mat")["input_ids"]
    assert [*before, *ids] == [*whole, tokenizer.eos_token_id]


def choice_head(tokenizer: Any, **spec: Any) -> Choice:
    head = build_head(ChoiceHead(kind="choice", **spec), Setting(TASKS["mrpc"], 8, tokenizer, 0))
    assert isinstance(head, Choice)
    return head


def test_labels_are_said_by_words_or_by_name(tiny_llama):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    decode: Callable[..., str] = tokenizer.decode
    said = [decode(c[:-1]).strip() for c in choice_head(tokenizer).choices]
    assert said == ["no", "yes"]
    said = [decode(c[:-1]).strip() for c in choice_head(tokenizer, verbalizer="labels").choices]
    assert said == ["not_equivalent", "equivalent"]
    own = choice_head(tokenizer, verbalizer="labels", words={"equivalent": "true"})
    assert decode(own.choices[1][:-1]).strip() == "true"
    for words in ({"equivalent": "no"}, {"equivalent": " "}):
        with pytest.raises(RecipeError, match=r"head\.words: got .*all different"):
            choice_head(tokenizer, words=words)


def test_padding_of_answers():
    assert pad_answers([(5, 2), (7,), ()]).tolist() == [[5, 2], [7, -100], [-100, -100]]
