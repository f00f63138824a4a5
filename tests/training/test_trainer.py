"""The training loop against one written by hand: plain torch, no Composed, one big batch."""

import json
import math
import signal
from pathlib import Path

import pytest
import torch
import yaml
from support.runs import metrics, recipe_data
from support.training import CARD, ORIGIN, Log
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from accept_llm.backbones.causal import CausalBackbone
from accept_llm.checks import prepare
from accept_llm.cli import train as cli
from accept_llm.data.encoding import Encoder
from accept_llm.data.sampling import batch_rows
from accept_llm.data.splits import load_splits
from accept_llm.engines.base import open_engine
from accept_llm.recipe.recipe import Recipe, parse_recipe
from accept_llm.training.evaluate import Model
from accept_llm.training.loading import load
from accept_llm.training.trainer import Output, Trainer, TrainingError

STRONG = {
    "lr": {"prepended": 1e-2, "added": 3e-3, "head": 5e-3},
    "weight_decay": {"prepended": 0.1, "added": 0.02, "head": 0.3},
    "clip_norm": 0.5,
    "warmup_steps": 2,
}


def trainer_of(recipe: Recipe, *, validate=lambda: (0.0, {"loss": 0.0})) -> Trainer:
    prepared = prepare(recipe, "single")
    splits, loaded = prepared.rows, load(prepared, open_engine("single"))
    recipe.run_dir.mkdir(parents=True, exist_ok=True)
    return Trainer(
        spec=recipe.train,
        model=loaded.model,
        rows=loaded.encode(splits.train),
        validate=validate,
        log=Log(),
        output=Output(recipe.run_dir, CARD, ORIGIN),
    )


def recipe_of(tmp_path: Path, model: Path, *, layout="padded", **train) -> Recipe:
    data = recipe_data(tmp_path, model, **train)
    data["model"]["layout"] = layout
    return parse_recipe(data)


def numbers(model: Model) -> dict[str, torch.Tensor]:
    parts = {"prompt": model.method, "head": model.head}
    return {
        f"{part}.{name}": tensor.detach().clone()
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }


# --- the reference ----------------------------------------------------------------------


def compose(codewords, weights, *, scale: float):
    """Column by column, without einsum, in units of the scale."""
    hidden, subspaces = codewords.shape[1], weights.shape[1]
    owner = [
        k for k in range(subspaces) for _ in range(hidden // subspaces + (k < hidden % subspaces))
    ]
    columns = [weights[:, k] @ codewords[:, c] for c, k in enumerate(owner)]
    return torch.stack(columns, dim=1) * scale / (2 * math.sqrt(len(codewords)))


def by_hand(recipe: Recipe, start: dict[str, torch.Tensor]) -> tuple[dict, list[float]]:
    """The same training, a sentence at a time through plain transformers; the loss of each step."""
    splits = load_splits(recipe.task, seed=0)
    lm = AutoModelForCausalLM.from_pretrained(recipe.model.path).requires_grad_(False)
    encode = Encoder(
        AutoTokenizer.from_pretrained(recipe.model.path), splits.task, spec=recipe.task
    )
    rows = encode(splits.train)
    now = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    spec = recipe.train
    group = {n: "head" if n.startswith("head") else n.split(".")[1] for n in now}
    optimizer = torch.optim.AdamW(
        [
            {"params": [p], "lr": 0.0, "weight_decay": spec.weight_decay[group[n]]}
            for n, p in now.items()
        ]
    )
    losses = []
    scale = lm.model.embed_tokens.weight.double().std().item()
    for step in range(spec.steps):
        prefix, offsets = (
            compose(now[f"prompt.{part}.codewords"], now[f"prompt.{part}.weights"], scale=scale)
            for part in ("prepended", "added")
        )
        loss = 0.0
        lengths = [len(row.tokens) for row in rows]
        chosen = batch_rows(lengths, step=step, batch_size=spec.batch_size, seed=spec.seed)
        for row in (rows[i] for i in chosen):
            tokens = torch.tensor(row.tokens)
            x = torch.cat([prefix, lm.model.embed_tokens(tokens) + offsets[: len(tokens)]])
            state = lm.model(inputs_embeds=x[None]).last_hidden_state[0, -1]
            logits = now["head.linear.weight"] @ state
            loss = loss + cross_entropy(logits, torch.tensor(row.label)) / len(chosen)
        optimizer.zero_grad()
        loss.backward()
        norm = math.sqrt(sum((p.grad.double() ** 2).sum().item() for p in now.values()))
        for p in now.values():
            p.grad *= min(1.0, spec.clip_norm / norm)
        warm, steps = spec.warmup_steps, spec.steps
        factor = (step + 1) / warm if step < warm else (steps - step) / (steps - warm)
        for name, settings in zip(now, optimizer.param_groups, strict=True):
            settings["lr"] = spec.lr[group[name]] * factor
        optimizer.step()
        losses.append(loss.item())
    return now, losses


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_steps_equal_a_loop_by_hand(tmp_path, tiny_llama, layout):
    recipe = recipe_of(tmp_path, tiny_llama, layout=layout, steps=5, **STRONG)
    trainer = trainer_of(recipe)
    want, losses = by_hand(recipe, numbers(trainer.model))
    before = numbers(trainer.model)
    trainer.run()
    assert [v["loss"] for v in trainer.log.steps] == pytest.approx(losses, abs=1e-5)
    for name, tensor in numbers(trainer.model).items():
        assert (tensor - before[name]).abs().max() > 1e-3, f"{name} was not trained"
        torch.testing.assert_close(tensor, want[name].detach(), atol=1e-6, rtol=0)
    norms = [v["gradient_norm"] for v in trainer.log.steps]
    assert max(norms) > STRONG["clip_norm"], "clipping was not exercised"


def test_the_layout_changes_nothing_in_50_steps(tmp_path, tiny_llama):
    traces = []
    for layout in "packed", "padded":
        home = tmp_path / layout
        home.mkdir()
        trainer = trainer_of(recipe_of(home, tiny_llama, layout=layout, steps=50, warmup_steps=5))
        trainer.run()
        traces.append([v["loss"] for v in trainer.log.steps])
    assert len(traces[0]) == 50
    assert traces[0] == pytest.approx(traces[1], rel=1e-4)


@pytest.mark.parametrize("size", [1, 3])
def test_accumulation_changes_nothing(tmp_path, tiny_llama, size):
    whole = trainer_of(recipe_of(tmp_path, tiny_llama, steps=4, **STRONG))
    parts = trainer_of(recipe_of(tmp_path, tiny_llama, steps=4, micro_batch_size=size, **STRONG))
    for trainer in whole, parts:
        trainer.run()
    for a, b in zip(numbers(whole.model).values(), numbers(parts.model).values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


# --- the loop ---------------------------------------------------------------------------


def scripted(scores, losses=None):
    """A validation that gives these scores, and losses, in turn."""
    left = iter(scores)
    lost = iter(losses or [0.0] * len(scores))
    return lambda: (next(left), {"loss": next(lost)})


@pytest.mark.parametrize(
    ("scores", "losses", "better"),
    [
        # The metric decides; where it is equal the loss; where that is, the later step.
        ([0.7, 0.6, 0.8], [0.5, 0.1, 0.9], [True, False, True]),
        ([1.0, 1.0, 1.0], [0.25, 0.0093, 0.1], [True, True, False]),
        ([0.9, 0.9, 0.9], [0.3, 0.3, 0.4], [True, True, False]),
    ],
)
def test_ties_go_to_the_smaller_loss_then_to_the_later_step(
    tmp_path, tiny_llama, scores, losses, better
):
    recipe = recipe_of(tmp_path, tiny_llama, steps=3, eval_every=1, patience=9)
    trainer = trainer_of(recipe, validate=scripted(scores, losses))
    trainer.run()
    assert trainer.log.evaluations == list(enumerate(better, 1))
    last = max(step for step, is_better in enumerate(better, 1) if is_better)
    assert trainer.best["step"] == last
    assert trainer.stale == 3 - last  # early stopping counts by the same rule


def test_best_is_the_best_and_is_written(tmp_path, tiny_llama):
    recipe = recipe_of(tmp_path, tiny_llama, steps=5, eval_every=1)
    seen = {}
    scores = [0.1, 0.7, 0.4, 0.7, 0.6]

    def validate():
        seen[trainer.step] = numbers(trainer.model)
        return scores[trainer.step - 1], {"loss": trainer.step}

    trainer = trainer_of(recipe, validate=validate)
    trainer.run()
    assert trainer.log.evaluations == [(1, True), (2, True), (3, False), (4, False), (5, False)]
    assert (trainer.best["step"], trainer.best["score"]) == (2, 0.7)
    trainer.load_best()
    assert all(torch.equal(t, seen[2][n]) for n, t in numbers(trainer.model).items())
    card = json.loads((recipe.run_dir / "prompt" / "prompt.json").read_text())
    assert (card["step"], card["score"]) == (2, 0.7)


def test_early_stopping_counts_evaluations_without_progress(tmp_path, tiny_llama):
    recipe = recipe_of(tmp_path, tiny_llama, steps=40, eval_every=2, patience=2)
    losses = [0.5, 0.5, 0.5, 0.6, 0.5, 0.5]  # the second 0.6 is no progress
    scores = [0.5, 0.4, 0.6, 0.6, 0.5, 0.9]
    trainer = trainer_of(recipe, validate=scripted(scores, losses))
    trainer.run()
    assert trainer.step == 10
    assert trainer.best["step"] == 6


def test_the_last_step_is_always_evaluated(tmp_path, tiny_llama):
    trainer = trainer_of(recipe_of(tmp_path, tiny_llama, steps=5, eval_every=3))
    trainer.run()
    assert [step for step, _ in trainer.log.evaluations] == [3, 5]


@pytest.mark.parametrize("stop_at", [1, 3, 4, 6, 7])
def test_resume_equals_an_unbroken_run(tmp_path, tiny_llama, stop_at):
    """SIGTERM comes during a step, also during the step before an evaluation."""
    recipe = recipe_of(tmp_path, tiny_llama, steps=7, eval_every=3, **STRONG)
    scores = {3: 0.8, 6: 0.5, 7: 0.1}
    whole = trainer_of(recipe, validate=lambda: (scores[whole.step], {"loss": 0.0}))
    whole.run()

    first = trainer_of(recipe, validate=lambda: (scores[first.step], {"loss": 0.0}))
    train_step = first._train_step

    def step_with_a_signal(step):
        if first.step == stop_at - 1:
            first.stops.take(signal.SIGTERM)
        return train_step(step)

    first._train_step = step_with_a_signal
    first.run()
    assert (first.stopped_by, first.step) == (signal.SIGTERM, stop_at)
    second = trainer_of(recipe, validate=lambda: (scores[second.step], {"loss": 0.0}))
    second.resume()
    assert second.step == stop_at
    second.run()
    done = first.log.evaluations + second.log.evaluations
    assert done == whole.log.evaluations == [(3, True), (6, False), (7, False)]
    for a, b in zip(numbers(whole.model).values(), numbers(second.model).values(), strict=True):
        assert torch.equal(a, b)
    assert second.best["step"] == whole.best["step"] == 3


def test_a_validation_score_of_nan_stops(tmp_path, tiny_llama):
    trainer = trainer_of(
        recipe_of(tmp_path, tiny_llama, steps=3, eval_every=1), validate=scripted([math.nan])
    )
    with pytest.raises(TrainingError, match="step 1: the validation score is nan"):
        trainer.run()


# --- not a number -----------------------------------------------------------------------


def test_nan_stops_and_names_the_examples(tmp_path, tiny_llama, monkeypatch, capsys):
    """Step 3 (counted from 0) gives NaN; the state of step 2 is left to resume."""
    data = recipe_data(tmp_path, tiny_llama, steps=6, eval_every=2)
    path = tmp_path / "recipe_in.yaml"
    path.write_text(yaml.safe_dump(data))
    call = CausalBackbone.__call__
    passes = []

    def broken(self, batch, prompt, *, reads):
        passes.extend([batch.ids] if torch.is_grad_enabled() else [])
        states = call(self, batch, prompt, reads=reads)
        return states * math.nan if len(passes) == 4 else states

    monkeypatch.setattr(CausalBackbone, "__call__", broken)
    with pytest.raises(cli.typer.Exit) as stop:
        cli.train_with("single", path, overrides=None)
    assert stop.value.exit_code == 1
    folder = tmp_path / "runs" / "run"
    said = json.loads((folder / "nan_batch.json").read_text())
    assert said == {"step": 3, "examples": list(passes[3])}
    assert "nan_batch.json" in "".join(capsys.readouterr())
    state = torch.load(folder / "state" / "state.pt")
    assert state["step"] == 2
    assert all(t.isfinite().all() for t in state["method"].values())

    monkeypatch.setattr(CausalBackbone, "__call__", call)
    cli.train_with("single", path, overrides=None, resume=True)
    assert [line["step"] for line in metrics(folder, of="loss")] == [1, 2, 3, 4, 5, 6]
