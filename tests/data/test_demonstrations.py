"""Solved training examples, which a prompt may start from."""

from dataclasses import replace

import pytest
import torch

from accept_llm.data.demonstrations import answer_text, demonstrations
from accept_llm.data.encoding import Encoder
from accept_llm.data.sources import task_from
from accept_llm.models.tokenizer import load_tokenizer
from accept_llm.recipe.task import FileTask
from accept_llm.tasks.base import Example
from accept_llm.tasks.table import TASKS

WORDS = ("bad", "good")


@pytest.fixture(scope="module")
def encoder(tiny_llama) -> Encoder:
    spec = FileTask(
        **{"kind": "file", "train": "-", "text": ["review"], "label": "y", "labels": list(WORDS)}
    )
    return Encoder(load_tokenizer(tiny_llama), task_from(spec), spec=spec)


def example(number: int, label: int, *, words: int) -> Example:
    return Example(
        f"train:{number}", (("text review: ", f"film{number} " + "was " * words),), label
    )


def tokens(encoder: Encoder, text: str) -> list[int]:
    return encoder.tokenizer(text, add_special_tokens=False)["input_ids"]


def solved(encoder: Encoder, one: Example) -> list[int]:
    return tokens(encoder, f"{encoder.text([one.parts[0][1]], one)} {WORDS[one.label]}\n")


def draw(encoder: Encoder, examples: list[Example], count: int, seed: int = 1) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return demonstrations(encoder, examples, count=count, generator=generator).tolist()


def test_it_ends_with_whole_solved_examples_of_both_labels(encoder):
    examples = [example(i, i % 2, words=6) for i in range(40)]
    size = len(solved(encoder, examples[0]))
    got = draw(encoder, examples, 2 * size)
    texts = [(solved(encoder, one), one.label) for one in examples]
    last, label = next(x for x in texts if got[-len(x[0]) :] == x[0])
    before = got[: -len(last)]
    assert [x for x in texts if x[0][-len(before) :] == before and x[1] != label]


def test_examples_of_a_third_are_preferred(encoder):
    fitting = [example(i, 0, words=6) for i in range(10, 14)]
    size = len(solved(encoder, fitting[0]))
    others = [example(i, 0, words=w) for i, w in ((20, 1), (21, 40), (22, 2), (23, 30))]
    got = draw(encoder, [*others, *fitting], 3 * size)
    parts = {tuple(got[i : i + size]) for i in range(0, 3 * size, size)}
    assert len(parts) == 3
    assert parts < {tuple(solved(encoder, one)) for one in fitting}


def test_few_examples_repeat_and_long_ones_lose_their_beginning(encoder):
    one = example(1, 1, words=3)
    want = solved(encoder, one)
    assert draw(encoder, [one], 2 * len(want)) == [*want, *want]
    assert draw(encoder, [one], 4) == want[-4:]


def test_the_seed_decides(encoder):
    examples = [example(i, i % 2, words=6) for i in range(400)]
    assert draw(encoder, examples, 60) == draw(encoder, examples, 60)
    assert draw(encoder, examples, 60) != draw(encoder, examples, 60, seed=2)


def test_the_answer_is_a_word_a_score_or_the_first_gold_answer():
    one = replace(example(1, 1, words=1), label=1)
    assert answer_text(TASKS["sst2"], one) == TASKS["sst2"].words[1]
    assert answer_text(TASKS["stsb"], replace(one, label=3.8)) == "3.8"
    assert answer_text(TASKS["stsb"], replace(one, label=5.0)) == "5.0"
    assert answer_text(TASKS["squad"], replace(one, label=("a lamp", "lamp"))) == "a lamp"
