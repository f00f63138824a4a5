"""Truncation, the order of rows, and how a global batch is cut over ranks."""

import itertools
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.tiny_models import save_sentencepiece

from accept_llm.data.batches import collate, micro_batches
from accept_llm.data.encoding import Encoded, Encoder, share
from accept_llm.data.sampling import BatchSampler, batch_rows
from accept_llm.data.sources import task_from
from accept_llm.errors import RecipeError
from accept_llm.models.tokenizer import is_old, load_tokenizer
from accept_llm.recipe.task import BuiltinTask, FileTask
from accept_llm.recipe.train import Train
from accept_llm.tasks.base import Example
from accept_llm.tasks.table import TASKS

PROPERTY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Z"]), min_size=1)
WORDS = st.lists(TEXT | st.sampled_from("kettle lamp rain was".split()), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return load_tokenizer(tiny_llama)


def encoder(tokenizer, max_length, *, columns=("a", "b"), cue=True) -> Encoder:
    spec = FileTask(
        **{"kind": "file", "train": "-", "text": list(columns), "label": "y", "labels": ["n", "p"]},
        **{"max_length": max_length, "cue": cue},
    )
    return Encoder(tokenizer, task_from(spec), spec=spec)


def encode(tokenizer, max_length, **more) -> Callable[[Example], Encoded]:
    return lambda one: encoder(tokenizer, max_length, **more)([one])[0]


def example(*values: str) -> Example:
    leads = ["text a: ", " b: "]
    return Example("train:7", tuple(zip(leads, values, strict=False)), 1)


def read_back(tokenizer, encoded) -> tuple[str, str]:
    """The two values in the decoded tokens; fails where a lead or the question is gone."""
    text = tokenizer.decode(
        encoded.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    start, _, rest = text.partition("text a: ")
    first, _, rest = rest.partition(" b: ")
    second, question, end = rest.rpartition(" label:")
    assert (start.strip(), question, end) == ("", " label:", ""), text
    return first, second


def test_short_texts_are_left_alone(tokenizer):
    encoded = encode(tokenizer, 64)(example("the kettle boils", "a drip"))
    assert (
        list(encoded.tokens) == tokenizer("text a: the kettle boils b: a drip label:")["input_ids"]
    )
    assert encoded.tokens[0] == tokenizer.bos_token_id
    assert (encoded.id, encoded.label) == ("train:7", 1)


def test_no_cue_no_question(tokenizer):
    encoded = encode(tokenizer, 64, cue=False)(example("the kettle", "a drip"))
    assert tokenizer.decode(encoded.tokens, skip_special_tokens=True).endswith("a drip")


def test_a_cue_in_your_own_words(tokenizer):
    encoded = encode(tokenizer, 64, cue="is it good? no or yes:")(example("the kettle", "a drip"))
    text = tokenizer.decode(
        encoded.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    assert text.endswith("a drip is it good? no or yes:")


@PROPERTY
@given(first=WORDS, second=WORDS, max_length=st.integers(48, 120))
def test_truncation_keeps_both_texts_leads_and_question(tokenizer, first, second, max_length):
    values = " ".join(first), " ".join(second)
    whole = len(tokenizer(f"text a: {values[0]} b: {values[1]} label:")["input_ids"])
    encoded = encode(tokenizer, max_length)(example(*values))
    assert len(encoded.tokens) <= max_length
    if whole <= max_length:
        assert len(encoded.tokens) == whole
    if " b: " in values[0] or " label:" in values[1] or "text a: " in values[0]:
        return  # the values themselves look like the frame: cannot be read back
    for kept, value in zip(read_back(tokenizer, encoded), values, strict=True):
        assert kept
        assert value.startswith(kept)


def test_the_longest_value_is_cut_first(tokenizer):
    short, long = "the kettle boils fast", "the soup was cold and the waiter was late " * 6
    for values in (short, long), (long, short):
        kept = read_back(tokenizer, encode(tokenizer, 50)(example(*values)))
        assert kept[values.index(short)] == short
        assert 0 < len(kept[values.index(long)]) < len(long)


def test_nearly_all_room_is_used(tokenizer):
    long = "the soup was cold and the waiter was late " * 9
    encoded = encode(tokenizer, 60)(example(long, long))
    assert 57 <= len(encoded.tokens) <= 60


@pytest.mark.parametrize(
    ("values", "length"),
    [(("kettle " * 30, "lamp " * 30), 8), (("kettle " * 30, "\N{OLD PERSIAN SIGN A}" * 9), 20)],
    ids=["frame", "first_letter"],
)
def test_a_text_without_room_is_refused_not_dropped(tokenizer, values, length):
    with pytest.raises(RecipeError, match=rf"task\.max_length: got {length}.*train:7"):
        encode(tokenizer, length)(example(*values))


QA = BuiltinTask.model_validate({"kind": "squad", "max_length": 120})


def answer_row(context: str, *golds: str) -> Example:
    question = "which wheel of the kettle was cold and late and wrong"
    return TASKS["squad"].example(
        "train:7", {"question": question, "context": context, "answers": {"text": list(golds)}}
    )


@pytest.mark.parametrize(
    ("golds", "lost"),
    [(("Lamp",), False), (("soup 199",), True), (("soup 199", "lamp"), False), (("zz",), False)],
)
def test_long_contexts_leave_the_question_whole(tokenizer, golds, lost):
    """An answer that was never in the text is not lost by the cut."""
    context = "the lamp " + " ".join(f"soup {i}" for i in range(200))
    row = answer_row(context, *golds)
    encoded = Encoder(tokenizer, TASKS["squad"], spec=QA)([row])[0]
    assert 115 <= len(encoded.tokens) <= 120
    text = tokenizer.decode(
        encoded.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    assert row.parts[0][1] in text
    assert "the lamp soup 0" in text
    assert text.endswith(" answer:")
    assert encoded.lost is lost
    whole = QA.model_copy(update={"max_length": 5000})
    assert Encoder(tokenizer, TASKS["squad"], spec=whole)([row])[0].lost is False


def test_a_question_without_end_is_cut_too(tokenizer):
    row = answer_row("the lamp", "lamp")
    long = replace(row, parts=((row.parts[0][0], "kettle lamp " * 60), row.parts[1]))
    encoded = Encoder(tokenizer, TASKS["squad"], spec=QA)([long])[0]
    text = tokenizer.decode(encoded.tokens)
    assert len(encoded.tokens) <= 120
    assert "kettle lamp kettle" in text
    assert "context: the lamp answer:" in text


def test_many_rows_are_encoded_as_each_alone(tokenizer, monkeypatch):
    monkeypatch.setattr("accept_llm.data.encoding.CHUNK", 3)
    rows = [example("the kettle " * i, "a drip") for i in range(1, 9)]
    one = encode(tokenizer, 30)
    assert encoder(tokenizer, 30)(rows) == [one(row) for row in rows]


@pytest.mark.skipif(is_old(), reason="transformers 4.33 cannot take them as text")
def test_special_tokens_in_a_text_are_text(tokenizer):
    plain = encode(tokenizer, 60)(example("the lamp", "soup"))
    typed = encode(tokenizer, 60)(example("the </s> lamp <s>", "soup"))
    assert tokenizer.bos_token_id == plain.tokens[0] == typed.tokens[0]
    assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(typed.tokens[1:])
    assert tokenizer.decode(typed.tokens[1:]).count("</s>") == 1


@pytest.mark.skipif(is_old(), reason="transformers 4.33 cannot take them as text")
def test_special_tokens_in_a_text_are_the_pieces_that_sentencepiece_has(tmp_path):
    """T5's kind of tokenizer has its special tokens among the pieces that a text is cut into."""
    import sentencepiece

    tokenizer = load_tokenizer(save_sentencepiece(tmp_path, "t5"))
    own = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    texts = [
        "the lamp",
        "a </s> cold soup",
        "</s>",
        "warm<pad>lamp</s>s",
        "<unk> <pad",
        "wet </ s>",
    ]
    for text in texts:
        assert tokenizer(text)["input_ids"] == [*own.encode(text), own.eos_id()], text


def test_an_end_that_the_tokenizer_adds_does_not_stand_behind_the_question(tiny_llama):
    from tokenizers.processors import TemplateProcessing

    ending, plain = load_tokenizer(tiny_llama), load_tokenizer(tiny_llama)
    ending.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    spec = FileTask(
        **{"kind": "file", "train": "-", "text": ["a", "b"], "label": "y", "labels": ["n", "p"]},
        max_length=24,
    )
    rows = [example("the lamp " * n, "soup") for n in (1, 3, 30)]
    found, want = (
        Encoder(one, task_from(spec), spec=spec, dropped_end=end)(rows)
        for one, end in ((ending, ending.eos_token_id), (plain, None))
    )
    assert ending("the")["input_ids"][-1] == ending.eos_token_id
    assert found == want


def test_long_sets_are_tokenised_once(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("accept_llm.data.token_cache.LEAST", 3)
    context = "the lamp " + " ".join(f"soup {i}" for i in range(200))
    rows = [answer_row(context[: 100 * i], "soup 30") for i in range(1, 9)]
    want = Encoder(tokenizer, TASKS["squad"], spec=QA)(rows)
    assert len({row.lost for row in want}) == 2
    calls = []
    first = Encoder(tokenizer, TASKS["squad"], spec=QA, cache=(tmp_path, "hash"))
    assert first(rows) == want
    [file] = tmp_path.iterdir()
    again = Encoder(None, TASKS["squad"], spec=QA, cache=(tmp_path, "hash"))
    assert again(rows) == want  # without a tokenizer
    for other in (
        Encoder(calls.append, TASKS["squad"], spec=QA, cache=(tmp_path, "another hash")),
        Encoder(
            *(calls.append, TASKS["squad"]),
            spec=QA.model_copy(update={"max_length": 121}),
            cache=(tmp_path, "hash"),
        ),
    ):
        with pytest.raises(TypeError):
            other(rows)
    whole = file.read_bytes()
    for damaged in (whole[:200], b"", b"PK garbage", pickle.dumps([1]), whole[:-30] + bytes(30)):
        file.write_bytes(damaged)  # it is made again
        assert first(rows) == want
        assert file.read_bytes() == whole
    assert first(rows[:2]) == want[:2]
    assert list(tmp_path.iterdir()) == [file]


def test_a_cache_that_cannot_be_written_loses_nothing(tokenizer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("accept_llm.data.token_cache.LEAST", 3)
    (tmp_path / "file").write_text("no folder")
    rows = [example("the kettle " * i, "a drip") for i in range(1, 9)]
    cached = Encoder(tokenizer, TASKS["squad"], spec=QA, cache=(tmp_path / "file", "hash"))
    assert cached(rows) == Encoder(tokenizer, TASKS["squad"], spec=QA)(rows)
    assert "note: tokens are not kept for the next run" in capsys.readouterr().err


@PROPERTY
@given(st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(4, 120))
def test_share_cuts_the_largest(counts, room):
    keep = share(counts, room)
    assert sum(keep) == min(sum(counts), room)
    level = max(keep)
    for have, got in zip(counts, keep, strict=True):
        assert got == have or level - 1 <= got <= level
        assert got >= min(have, 1)


# --- which rows are in which batch ------------------------------------------------------


@PROPERTY
@given(st.integers(1, 30), st.integers(1, 70), st.integers(0, 2**20))
def test_each_epoch_has_each_row_once(count, batch_size, seed):
    steps = -(-3 * count // batch_size)
    rows = [
        row
        for step in range(steps)
        for row in batch_rows([1] * count, step=step, batch_size=batch_size, seed=seed)
    ]
    assert len(rows) == steps * batch_size
    for epoch in range(3):
        assert sorted(rows[epoch * count : (epoch + 1) * count]) == list(range(count))


@PROPERTY
@given(st.integers(1, 25), st.integers(1, 20), st.integers(1, 5))
def test_the_order_does_not_depend_on_the_batch_size(count, small, times):
    """So one step of a large batch is `times` steps of a small one."""
    one = batch_rows([1] * count, step=2, batch_size=small * times, seed=3)
    steps = range(2 * times, 3 * times)
    many = [r for s in steps for r in batch_rows([1] * count, step=s, batch_size=small, seed=3)]
    assert one == many


@PROPERTY
@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 9), st.integers(1, 8))
def test_buckets_hold_each_row_once_and_pad_less(lengths, batch_size, bucket):
    def batches(bucket: int) -> list[list[int]]:
        return [
            batch_rows(lengths, step=s, batch_size=batch_size, seed=5, bucket=bucket)
            for s in range(steps)
        ]

    def positions(rows: list[list[int]]) -> int:
        return sum(len(batch) * max(lengths[i] for i in batch) for batch in rows)

    steps = 3 * bucket
    plain, sorted_ = batches(1), batches(bucket)
    for window in range(3):
        part = slice(window * bucket, (window + 1) * bucket)
        drawn, cut = (sorted(i for batch in b[part] for i in batch) for b in (plain, sorted_))
        assert drawn == cut
        spans = sorted(
            (min(lengths[i] for i in batch), max(lengths[i] for i in batch))
            for batch in sorted_[part]
        )
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    assert all(len(batch) == batch_size for batch in sorted_)
    assert positions(sorted_) <= positions(plain)


def test_buckets_are_taken_in_a_drawn_order():
    lengths = list(range(64))
    firsts = [batch_rows(lengths, step=s, batch_size=4, seed=1, bucket=16)[0] for s in range(64)]
    windows = [firsts[i : i + 16] for i in range(0, 64, 16)]
    assert all(window != sorted(window) for window in windows)
    orders = {tuple(sorted(range(16), key=w.__getitem__)) for w in windows}
    assert len(orders) == 4


def draw_of(lengths, **train) -> BatchSampler:
    return BatchSampler(lengths, Train.model_validate({"steps": 1, **train}))


@PROPERTY
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(50, 200), st.integers(1, 8)
)
def test_batches_by_tokens_hold_each_row_once_an_epoch(lengths, tokens, bucket):
    draw = draw_of(lengths, tokens_per_batch=tokens, bucket=bucket)
    step = 0
    for epoch in range(3):
        rows = []
        while draw.epochs(step) == epoch:
            batch = draw.rows(step)
            assert sum(lengths[i] for i in batch) <= tokens
            rows.append(batch)
            step += 1
        assert sorted(i for batch in rows for i in batch) == list(range(len(lengths)))
        fewest = -(-sum(lengths) // tokens)
        # Two batches in a row that could have been one are what cutting must not leave; a window
        # of a bucket ends with a batch that may be short.
        assert len(rows) <= 2 * fewest + len(lengths) // max(1, bucket)
    assert draw_of(lengths, tokens_per_batch=tokens, bucket=bucket).rows(step - 1) == (
        draw.rows(step - 1)
    )


def test_batches_by_tokens_are_drawn_anew_each_epoch():
    draw = draw_of(list(range(1, 41)), tokens_per_batch=100, bucket=3, seed=7)
    steps = next(s for s in range(100) if draw.epochs(s) == 2)
    batches = [tuple(draw.rows(s)) for s in range(steps)]
    assert len(set(batches)) > 0.8 * len(batches)
    plain = draw_of([5] * 40, batch_size=8, seed=7)
    assert plain.rows(3) == batch_rows([5] * 40, step=3, batch_size=8, seed=7)
    assert [plain.epochs(s) for s in (4, 5, 10)] == [0, 1, 2]


def test_epochs_and_seeds_differ():
    def draw(step, seed):
        return batch_rows([1] * 50, step=step, batch_size=50, seed=seed)

    assert len({tuple(draw(step, seed)) for step in range(4) for seed in range(4)}) == 16


# --- batches ----------------------------------------------------------------------------


def encoded(count: int) -> list[Encoded]:
    return [Encoded(f"train:{i}", tuple(range(1, 2 + i % 5)), i % 3) for i in range(count)]


def test_collate_keeps_rows_and_types():
    batch = collate(encoded(7))
    parts = batch.tokens.split(batch.lengths.tolist())
    assert [tuple(part.tolist()) for part in parts] == [row.tokens for row in encoded(7)]
    assert batch.labels.dtype == torch.int64
    assert collate([Encoded("a", (1,), 2.5), Encoded("b", (1,), 3.0)]).labels.dtype == torch.float32


@PROPERTY
@given(st.integers(1, 20), st.integers(1, 9), st.none() | st.integers(1, 20))
def test_micro_batches_of_all_ranks_are_the_global_batch(count, world_size, size):
    rows = encoded(count)
    seen, calls = Counter(), set()
    for rank in range(world_size):
        parts = list(micro_batches(rows, rank=rank, world_size=world_size, micro_batch_size=size))
        calls.add(len(parts))
        for batch, weights in parts:
            assert weights.shape == (len(batch),)
            assert len(batch) <= min(size or count, -(-count // world_size))
            for name, weight in zip(batch.ids, weights.tolist(), strict=True):
                assert weight in (0.0, 1.0)
                seen[name] += weight
    assert seen == {row.id: 1.0 for row in rows}
    assert len(calls) == 1, "a rank with fewer passes would hang the others"
