"""The training loop, the only one, whatever the engine or the method.

It owns loss, gradients, optimizer, schedule, evaluation, the best prompt, early stopping and
the resumable state. It knows no engine by name and no layout.
"""

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from accept_llm.adapter.card import Card
from accept_llm.adapter.folder import save_adapter
from accept_llm.backbones.base import BackboneError
from accept_llm.data.encoding import Encoded
from accept_llm.data.loader import Prefetcher, StepBatches
from accept_llm.errors import RecipeError, cannot_write
from accept_llm.recipe.train import HEAD, Train
from accept_llm.runs.folder import ADAPTER
from accept_llm.runs.log import RunLog
from accept_llm.storage import write_json
from accept_llm.training.evaluate import Model
from accept_llm.training.signals import StopSignals, any_rank_got
from accept_llm.training.state import FILE, Origin, load_state, save_state, without_state

Scores = dict[str, float]


class TrainingError(RuntimeError):
    """Training cannot go on; what it was doing is saved in the run folder."""


@dataclass(frozen=True)
class Output:
    """The folder of a run's adapter and state, the adapter's card, and what both are made from."""

    folder: Path
    card: Card
    origin: Origin


@dataclass
class Padding:
    """How many input positions an epoch has computed, and how many of them held a token."""

    epoch: int = 0
    tokens: float = 0
    positions: float = 0

    @property
    def share(self) -> float:
        return 1 - self.tokens / self.positions


class Trainer:
    """Trains `model.method` and `model.head` on `rows`; `validate` gives (score, all scores).

    After `run()`, `best` has the step, score and state dicts of the best evaluation, which
    are also in <folder>/prompt.
    """

    def __init__(
        self,
        *,
        spec: Train,
        model: Model,
        rows: Sequence[Encoded],
        validate: Callable[[], tuple[float, Scores]],
        log: RunLog,
        output: Output,
    ):
        self.spec, self.model, self.validate = spec, model, validate
        self.log, self.folder, self.card = log, output.folder, output.card
        self.origin = output.origin
        self.history: list[str] = []
        groups = {**model.method.groups(), HEAD: list(model.head.parameters())}
        assert set(groups) == set(spec.lr), (set(groups), set(spec.lr))
        self.parameters = [p for group in groups.values() for p in group]
        self.optimizer = torch.optim.AdamW(
            [
                {
                    "params": params,
                    "lr": spec.lr[name],
                    "weight_decay": spec.weight_decay[name],
                }
                for name, params in groups.items()
                if params
            ]
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.step, self.stale, self.evaluated = 0, 0, 0
        engine, backbone = model.engine, model.backbone
        self.loader = Prefetcher(
            rows,
            spec,
            ranks=(engine.rank, engine.world_size),
            device=engine.device,
            positions=backbone.positions,
        )
        self.padding = Padding()
        self.best: dict[str, Any] | None = None
        self.stopped_by: signal.Signals | None = None
        self.stops = StopSignals()

    def _rate(self, step: int) -> float:
        """Linear warm-up, then linear decay to zero at the last step."""
        warmup, steps = self.spec.warmup_steps, self.spec.steps
        if step < warmup:
            return (step + 1) / warmup
        return (steps - step) / max(1, steps - warmup)

    # --- one step -----------------------------------------------------------------------

    def _backward(self, step: StepBatches) -> Tensor:
        """Adds this rank's part of a batch to the gradients of the mean loss over all targets.

        Gives (3,): the rank's part of the loss, its tokens and the positions computed for them.
        """
        model = self.model
        targets = sum(model.head.targets(row) for row in step.rows)
        composed = model.method.compose()  # once a step; micro-batches meet at the leaves
        leaves = composed.leaves()
        total = torch.zeros((), device=model.engine.device)
        for part in step.parts:
            losses = model.head.losses(model.backbone, part.batch, prompt=leaves) * part.weights
            loss = losses.sum() / targets
            loss.backward()
            total += loss.detach()  # read once a step: reading waits for the device
        composed.backward(leaves)
        counts = (sum(part.tokens for part in step.parts), sum(p.positions for p in step.parts))
        return torch.cat([total[None], torch.tensor(counts, device=total.device)])

    def _sum_gradients(self, sums: Tensor) -> Tensor:
        """Sums gradients, `sums` and who got which stop signal over the ranks, in one message."""
        extra = torch.cat([sums, sums.new_tensor(self.stops.flags())])
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        flat = torch.cat([*(g.flatten() for g in grads), extra])
        flat = self.model.engine.sum_over_ranks(flat)
        *parts, last = flat.split([*(p.numel() for p in self.parameters), len(extra)])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        return last.cpu()

    def _train_step(self, step: StepBatches) -> Scores:
        self.optimizer.zero_grad(set_to_none=True)
        sums = self._backward(step)
        loss, tokens, positions, *signals = self._sum_gradients(sums).tolist()
        self.stopped_by = any_rank_got(signals)
        limit = math.inf if self.spec.clip_norm is None else self.spec.clip_norm
        norm = nn.utils.clip_grad_norm_(self.parameters, limit).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._stop_on_nan(loss, norm, ids=[row.id for row in step.rows])
        rate = float(self.schedule.get_last_lr()[0])
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        self.padding.tokens += tokens
        self.padding.positions += positions
        return {"loss": loss, "gradient_norm": norm, "lr": rate}

    def _stop_on_nan(self, loss: float, norm: float, *, ids: list[str]) -> None:
        path = self.folder / "nan_batch.json"
        where = f"the batch's examples are in {path}"
        try:
            if self.model.engine.rank == 0:
                write_json(path, {"step": self.step, "examples": ids})
        except OSError as error:
            where = f"{cannot_write(error, path)}: the batch's examples are {', '.join(ids)}"
        what = f"step {self.step}: loss {loss}, gradient norm {norm}; {where}"
        raise TrainingError(f"{what}; the last good state can be resumed")

    # --- the loop -----------------------------------------------------------------------

    def run(self) -> None:
        """Trains to the last step, to early stopping, or to a signal (a resumable state)."""
        try:
            with self.stops.caught():
                while not self._is_done():
                    self._one_round()
                    if self.stopped_by:
                        self._save()
                        break
        except BackboneError as error:  # nothing has changed since the last step
            self._save()
            saved = f"the state of step {self.step} is saved: go on with --resume"
            raise TrainingError(f"step {self.step}: {error}; {saved}") from error
        except OSError as error:
            what = f"step {self.step}: {cannot_write(error, self.folder)}"
            todo = "once it can, --resume goes on from the last state"
            raise TrainingError(f"{what}; {todo}") from error
        finally:
            self.loader.close()

    def _one_round(self) -> None:
        if not self._is_due():  # it is where a signal came before an evaluation
            began = time.perf_counter()
            step = self.loader.step(self.step)
            values = self._train_step(step)
            values["seconds"] = time.perf_counter() - began
            self.log.step(self.step, values, batch_size=len(step.rows))
            self._report_padding(step.epochs)
        if self._is_due() and not self.stopped_by:
            self._evaluate()
        every = self.spec.save_every or self.spec.eval_every
        if self.step % every == 0 or self.step == self.spec.steps:
            self._save()

    def _report_padding(self, epoch: int) -> None:
        """Logs the share of padding when an epoch, or the run, is over; `epoch` are complete."""
        if epoch > self.padding.epoch or self.step == self.spec.steps:
            self.log.epoch(self.step, self.padding.epoch, padding=self.padding.share)
            self.padding = Padding(epoch)

    def _is_due(self) -> bool:
        """Whether this step's evaluation is still to be done."""
        at_step = self.step % self.spec.eval_every == 0 or self.step == self.spec.steps
        return at_step and self.evaluated < self.step

    def _is_done(self) -> bool:
        at_end = self.step == self.spec.steps and not self._is_due()
        return at_end or (self.spec.patience is not None and self.stale >= self.spec.patience)

    def _evaluate(self) -> None:
        value, scores = self.validate()
        self.evaluated = self.step
        if math.isnan(value):
            raise TrainingError(f"step {self.step}: the validation score is nan: {scores}")
        better = self.best is None or not _is_worse(value, scores, than=self.best)
        self.stale = 0 if better else self.stale + 1
        if better:
            self.best = {
                "step": self.step,
                "score": value,
                "scores": scores,
                "method": _copy(self.model.method),
                "head": _copy(self.model.head),
            }
            self._write_best()
        self.log.evaluation(self.step, scores, better=better)

    def _write_best(self) -> None:
        best = self.best
        if best is None or self.model.engine.rank != 0:
            return
        card = self.card.model_copy(update={"step": best["step"], "score": best["score"]})
        save_adapter(self.folder / ADAPTER, method=best["method"], head=best["head"], card=card)

    # --- the resumable state ------------------------------------------------------------

    def _save(self) -> None:
        if self.model.engine.rank != 0:
            return
        state = {
            "step": self.step,
            "stale": self.stale,
            "evaluated": self.evaluated,
            "best": self.best,
            "method": self.model.method.state_dict(),
            "head": self.model.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "seconds": self.log.seconds,
            "padding": asdict(self.padding),
            "steps": self.spec.steps,
            "origin": asdict(self.origin),
            "history": self.history,
        }
        save_state(self.folder / "state", state)

    def resume(self, *, changed_data: bool = False) -> list[str]:
        """Goes back to the last state, if there is one; the log forgets what came after it. Gives
        what differs from the run as it was, which the state records. RecipeError where the state
        is damaged, or of another model or other rows (unless `changed_data`)."""
        state = load_state(self.folder / "state")
        notes: list[str] = []
        said = [without_state(self.folder)] if state is None else []
        if state is not None:
            origin = state.get("origin")  # an earlier version's state has none
            try:
                notes += self.origin.changes(origin, changed_data=changed_data) if origin else []
                self._restore(state)
            except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
                what = f"{type(error).__name__}: {error}".splitlines()[0]
                path = self.folder / "state" / FILE
                raise RecipeError([f"resume: {path} is damaged: {what}"]) from error
            notes += self._lengthen(state.get("steps", self.spec.steps))
            if origin and origin["rows"].get("validation") != self.origin.rows.get("validation"):
                # Scores on other rows cannot be compared: this step is evaluated anew.
                self.best, self.stale, self.evaluated = None, 0, 0
        steps = self.model.engine.gather([self.step])
        if len(set(steps)) > 1:
            message = f"output_dir: the ranks find states of the steps {steps}"
            raise RecipeError([f"{message}; allowed: a folder that all machines share"])
        self.history += [f"step {self.step}: {note}" for note in notes]
        self._write_best()
        self.log.rewind(self.step)
        return said + notes

    def _lengthen(self, before: int) -> list[str]:
        """Takes the learning rates of a run of `spec.steps`, which began with `before`."""
        if self.spec.steps == before:
            return []
        for group, rate in zip(self.optimizer.param_groups, self.schedule.base_lrs, strict=True):
            group["lr"] = rate * self._rate(self.step)
        self.schedule._last_lr = [group["lr"] for group in self.optimizer.param_groups]
        more = f"train.steps is {self.spec.steps}, and was {before}"
        return [f"{more}: from here on the schedule is that of the new length"]

    def _restore(self, state: dict[str, Any]) -> None:
        self.step, self.stale, self.best = state["step"], state["stale"], state["best"]
        self.evaluated = state["evaluated"]
        if not 0 <= self.step <= self.spec.steps:
            raise LookupError(f"step is {self.step}, of {self.spec.steps}")
        if self.best is not None:
            self.load_best()
        self.model.method.load_state_dict(state["method"])
        self.model.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.log.seconds = state["seconds"]
        self.padding = Padding(**state["padding"])
        self.history = list(state.get("history", ()))

    def load_best(self) -> None:
        """Puts the best prompt and head in place."""
        assert self.best is not None, "no evaluation has run"
        self.model.method.load_state_dict(self.best["method"])
        self.model.head.load_state_dict(self.best["head"])


def _is_worse(value: float, scores: Scores, *, than: Mapping[str, Any]) -> bool:
    """Whether an evaluation falls behind the best: by its metric, by its loss where the metrics are
    equal; where both are, the later step counts."""
    if value != than["score"]:
        return value < than["score"]
    return scores["loss"] > than["scores"]["loss"]


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().cpu().clone() for name, t in module.state_dict().items()}
