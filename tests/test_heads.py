"""Heads against plain torch, and the words that stand for labels."""

import pytest
import torch
from support.tiny_models import save_sentencepiece
from transformers import AutoTokenizer

from accept_llm.data.answers import label_word_ids
from accept_llm.data.sources import task_from
from accept_llm.errors import RecipeError
from accept_llm.heads import LabelWords, LinearHead, Setting, build_head, example_losses
from accept_llm.recipe.head import LabelWordsHead
from accept_llm.recipe.head import LinearHead as LinearSpec
from accept_llm.recipe.task import FileTask
from accept_llm.tasks.table import TASKS


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return AutoTokenizer.from_pretrained(tiny_llama)


def file_task(*labels):
    spec = {"kind": "file", "train": "-", "text": ["a"], "label": "y", "labels": list(labels)}
    return task_from(FileTask.model_validate(spec))


@pytest.mark.parametrize("bias", [True, False])
def test_linear_head_is_a_linear_layer_in_fp32(bias):
    head = LinearHead(8, 3, bias=bias, seed=1)
    states = torch.randn(5, 8, generator=torch.Generator().manual_seed(2)).bfloat16()
    want = states.float() @ head.linear.weight.T
    if bias:
        torch.nn.init.constant_(head.linear.bias, 0.5)
        want = want + 0.5
    assert head.scores(states).dtype == torch.float32
    torch.testing.assert_close(head.scores(states), want)
    assert len(list(head.parameters())) == 1 + bias


def test_linear_head_of_a_score_has_one_output():
    head = LinearHead(8, 0, bias=False)
    states = torch.randn(5, 8)
    torch.testing.assert_close(head.scores(states), states @ head.linear.weight[0])


def test_linear_head_starts_by_its_seed():
    one, two, other = (LinearHead(64, 2, bias=True, seed=s).linear for s in (3, 3, 4))
    assert torch.equal(one.weight, two.weight)
    assert not torch.equal(one.weight, other.weight)
    assert not one.bias.any()
    assert one.weight.std().item() == pytest.approx(1 / 80, rel=0.2)


def test_class_losses_equal_a_loop():
    scores = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    want = [-(row.exp() / row.exp().sum())[k].log().item() for row, k in zip(scores, labels)]  # noqa: B905
    assert example_losses(scores, labels).tolist() == pytest.approx(want)


def test_score_losses_are_squared_errors():
    losses = example_losses(torch.tensor([1.0, 4.5]), torch.tensor([3.0, 4.0]))
    assert losses.tolist() == [4.0, 0.25]


def test_label_words_read_their_columns():
    logits = torch.arange(12.0).view(2, 6).bfloat16()
    head = LabelWords([4, 1])
    assert head.scores(logits).tolist() == [[4, 1], [10, 7]]
    assert head.scores(logits).dtype == torch.float32
    assert not list(head.parameters())
    assert not head.state_dict()


@pytest.mark.parametrize("name", ["sst2", "rte", "boolq"])
def test_label_words_are_what_would_come_next(tokenizer, name):
    """The id is the first token that the text gains when the word is written after it."""
    task = TASKS[name]
    ids = label_word_ids(LabelWordsHead(kind="label_words"), task, tokenizer=tokenizer)
    text = f"{task.name} {task.question}"
    before = tokenizer(text)["input_ids"]
    for word, found in zip(task.words, ids, strict=True):
        after = tokenizer(f"{text} {word}")["input_ids"]
        assert after[: len(before)] == before
        assert after[len(before)] == found
        assert tokenizer.decode([found]).startswith(" ")


def test_label_words_of_a_sentencepiece_model(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(save_sentencepiece(tmp_path, "llama"))
    ids = label_word_ids(
        LabelWordsHead(kind="label_words"), file_task("bad", "good"), tokenizer=tokenizer
    )
    for word, found in zip(["bad", "good"], ids, strict=True):
        before = tokenizer("text a: the cat label:")["input_ids"]
        assert tokenizer(f"text a: the cat label: {word}")["input_ids"][len(before)] == found


def test_own_words_replace_the_labels(tokenizer):
    spec = LabelWordsHead(kind="label_words", words={"p": " positive", "n": "negative"})
    ids = label_word_ids(spec, file_task("n", "p"), tokenizer=tokenizer)
    plain = label_word_ids(
        LabelWordsHead(kind="label_words"), file_task("negative", "positive"), tokenizer=tokenizer
    )
    assert ids == plain


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"p": "negative", "n": "negative"}, r"words whose first tokens differ"),
        ({"p": " "}, r"head\.words: got ' '; allowed: a word"),
    ],
)
def test_words_that_cannot_be_told_apart_are_refused(tokenizer, words, message):
    spec = LabelWordsHead(kind="label_words", words=words)
    with pytest.raises(RecipeError, match=message):
        label_word_ids(spec, file_task("n", "p"), tokenizer=tokenizer)


def test_build_head(tokenizer):
    task = file_task("negative", "positive", "true")
    linear = build_head(LinearSpec(kind="linear"), Setting(task, 8, tokenizer, 0))
    assert linear.linear.weight.shape == (3, 8)
    assert linear.linear.bias is None
    score = build_head(LinearSpec(kind="linear"), Setting(TASKS["stsb"], 8, tokenizer, 0))
    assert score.scores(torch.zeros(4, 8)).shape == (4,)
    words = LabelWordsHead(kind="label_words")
    assert build_head(words, Setting(task, 8, tokenizer, 0)).token_ids.shape == (3,)
