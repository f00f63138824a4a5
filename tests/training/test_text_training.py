"""Training that lets a model say its answers: against a loop by hand, a sentence at a time, and
FSDP2 on two processes against one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.data_files import write_parquet
from support.parity import assert_parity
from support.runs import finish, recipe_data, start, start_ranks
from support.training import CARD, ORIGIN, Log
from transformers import AutoModelForSeq2SeqLM

from accept_llm.checks import prepare
from accept_llm.data.sampling import batch_rows
from accept_llm.engines.base import open_engine
from accept_llm.recipe.recipe import Recipe, parse_recipe
from accept_llm.training.loading import load
from accept_llm.training.run import count_truncated
from accept_llm.training.trainer import Output, Trainer

CONTEXT = "the battery lasts two days and the kettle boils fast in the rain of the river"

TRAIN = {"steps": 20, "eval_every": 5, "save_every": 2, "warmup_steps": 3}


def write_questions(folder: Path, count: int = 1_020) -> None:
    """Answers are the last one to three words of the context, which is of any length."""
    words = CONTEXT.split()
    rows = []
    for i in range(count):
        context = " ".join(words[: 4 + i % 13])
        answer = " ".join(context.split()[-1 - i % 3 :])
        question = f"which {words[i % 7]} was it"
        rows.append({"question": question, "context": context, "answers": {"text": [answer]}})
    write_parquet(folder / "squad/train.parquet", rows)
    write_parquet(folder / "squad/validation.parquet", rows[:9])


def text_recipe(folder: Path, model: Path, *, head: dict[str, Any], **train: Any) -> dict[str, Any]:
    """Questions where the model writes, reviews where it chooses."""
    data = recipe_data(folder, model, **train)
    if head["kind"] == "generate":
        if not (folder / "squad").exists():
            write_questions(folder)
        limits = {"train_limit": 20, "validation_limit": 9}
        data["task"] = {"kind": "squad", "dir": str(folder), "max_length": 120, **limits}
    return data | {"head": head}


GENERATE = {"kind": "generate", "max_new_tokens": 6}
CHOICE = {"kind": "choice", "words": {"bad": "no", "good": "yes kettle"}}
HEADS = pytest.mark.parametrize("head", [GENERATE, CHOICE], ids=["generate", "choice"])


def trainer_of(recipe: Recipe) -> Trainer:
    prepared = prepare(recipe, "single")
    splits, loaded = prepared.rows, load(prepared, open_engine("single"))
    recipe.run_dir.mkdir(parents=True)
    return Trainer(
        spec=recipe.train,
        model=loaded.model,
        rows=loaded.encode(splits.train),
        validate=lambda: (0.0, {"loss": 0.0}),
        log=Log(),
        output=Output(recipe.run_dir, CARD, ORIGIN),
    )


def by_hand(trainer: Trainer, model: Path, *, bucket: int) -> tuple[torch.Tensor, list[float]]:
    """Plain prompt tuning through transformers' own loss, the mean over all tokens of a batch."""
    spec, rows = trainer.spec, trainer.loader.rows
    lm = AutoModelForSeq2SeqLM.from_pretrained(model).eval().requires_grad_(False)
    prefix = trainer.model.method.tokens.detach().clone().requires_grad_()
    optimizer = torch.optim.AdamW([prefix], lr=0.0, weight_decay=0.0)
    losses = []
    for step in range(spec.steps):
        lengths = [len(row.tokens) for row in rows]
        chosen = batch_rows(
            lengths, step=step, batch_size=spec.batch_size, seed=spec.seed, bucket=bucket
        )
        total, count = 0.0, 0
        for row in (rows[i] for i in chosen):
            x = torch.cat([prefix, lm.shared(torch.tensor(row.tokens))])
            answer = torch.tensor([row.answer])
            total = total + lm(inputs_embeds=x[None], labels=answer).loss * len(row.answer)
            count += len(row.answer)
        loss = total / count
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([prefix], spec.clip_norm)
        optimizer.param_groups[0]["lr"] = spec.lr["prepended"] * (spec.steps - step) / spec.steps
        optimizer.step()
        losses.append(loss.item())
    return prefix.detach(), losses


@HEADS
@pytest.mark.parametrize("micro", [None, 2])
def test_steps_equal_a_loop_by_hand(tmp_path, tiny_t5, head, micro):
    train = {"steps": 4, "bucket": 2, "micro_batch_size": micro, "lr": {"prepended": 0.03}}
    data = text_recipe(tmp_path, tiny_t5, head=head, **train)
    data["method"] = {"kind": "pt", "budget": 5}
    trainer = trainer_of(parse_recipe(data))
    before = trainer.model.method.tokens.detach().clone()
    want, losses = by_hand(trainer, tiny_t5, bucket=2)
    trainer.run()
    assert [v["loss"] for v in trainer.log.steps] == pytest.approx(losses, rel=1e-5)
    got = trainer.model.method.tokens.detach()
    assert (got - before).abs().max() > 0.03
    torch.testing.assert_close(got, want, atol=3e-4, rtol=0)


def test_padding_is_reported_once_an_epoch(tmp_path, tiny_t5):
    """24 rows in batches of 5: epochs end in steps 5 and 10, and the run in 11."""
    data = text_recipe(tmp_path, tiny_t5, head=CHOICE, steps=11, bucket=1)
    trainer = trainer_of(parse_recipe(data))
    trainer.run()
    shares = []
    lengths = [len(row.tokens) for row in trainer.loader.rows]
    for steps in range(5), range(5, 10), range(10, 11):
        batches = [batch_rows(lengths, step=s, batch_size=5, seed=42) for s in steps]
        real = sum(lengths[i] for batch in batches for i in batch)
        laid = sum(5 * max(lengths[i] for i in batch) for batch in batches)
        shares.append(1 - real / laid)
    assert [(step, epoch) for step, epoch, _ in trainer.log.epochs] == [(5, 0), (10, 1), (11, 2)]
    assert [share for _, _, share in trainer.log.epochs] == pytest.approx(shares)


def test_cut_answers_are_counted(tmp_path, tiny_t5):
    data = text_recipe(tmp_path, tiny_t5, head=GENERATE | {"max_new_tokens": 3})
    data["task"]["max_length"] = 60
    recipe = parse_recipe(data)
    prepared = prepare(recipe, "single")
    splits, loaded = prepared.rows, load(prepared, open_engine("single"))
    rows = loaded.encode(splits.train)
    lost, long = count_truncated(rows, loaded.model.head).values()
    decode = loaded.model.tokenizer.decode
    texts = [decode(row.tokens) for row in rows]
    assert lost == sum(
        example.label[0] not in text for example, text in zip(splits.train, texts, strict=True)
    )
    assert long == sum(decode(row.answer[:-1]).strip() != row.label[0] for row in rows)
    assert 0 < lost < 20
    assert 0 < long < 20
    assert all(len(row.answer) <= 3 for row in rows)


# --- two processes ----------------------------------------------------------------------


@HEADS
@pytest.mark.parametrize("model", ["tiny_t5", "tiny_t5_tied"])
def test_two_ranks_equal_one_process(request, tmp_path, model, head):
    """Batches of 5 in micro-batches of 2, 9 or more rows to answer: uneven everywhere. Each rank
    writes its own answers, and stops when all have stopped."""
    folder = request.getfixturevalue(model)
    rates = {"prepended": 1e-3, "added": 2e-4}
    train = TRAIN | {"micro_batch_size": 2, "eval_batch_size": 2, "lr": rates}
    data = text_recipe(tmp_path, folder, head=head, **train)
    path = tmp_path / "recipe_in.yaml"
    path.write_text(yaml.safe_dump(data))
    assert finish(start(path, "name=one")) == [0]
    change = ["model.checkpointing=true"] if head is CHOICE else []
    assert finish(*start_ranks(path, "name=two", *change, count=2)) == [0, 0]
    one, two = (tmp_path / "runs" / name for name in ("one", "two"))
    assert_text_parity(two, one)


def assert_text_parity(folder: Path, one: Path) -> None:
    scores = json.loads((one / "result.json").read_text())["test"]
    main = next(iter(scores))
    assert_parity(folder, one, ranks=2, main=main)


def test_a_causal_model_writes_and_chooses_on_two_ranks(tmp_path, tiny_llama):
    for head in GENERATE, CHOICE:
        home = tmp_path / str(head["kind"])
        home.mkdir()
        path = home / "recipe_in.yaml"
        path.write_text(yaml.safe_dump(text_recipe(home, tiny_llama, head=head, **TRAIN)))
        assert finish(start(path, "name=one")) == [0]
        change = ("model.layout=padded", "model.checkpointing=true")  # the same, too
        assert finish(*start_ranks(path, "name=two", *change, count=2)) == [0, 0]
        assert_text_parity(home / "runs/two", home / "runs/one")
