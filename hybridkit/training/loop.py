"""The training loop: one for all engines.

A step reads a batch, asks the engine for its gradient, checks it, and only then updates. Where a run stands is its
`TrainState` and the engine's. Batches and windows are functions of it, so that a resumed run repeats one that was not
interrupted.
"""

import math
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hybridkit.block import TrainStep, said_window
from hybridkit.data.batches import Batch, Feed
from hybridkit.data.mixture import Mixture
from hybridkit.model.plan import Plan
from hybridkit.recipe.schema import Recipe
from hybridkit.runs.manifest import Invalid
from hybridkit.runs.run import Run
from hybridkit.system.errors import Failure, Interrupted
from hybridkit.system.signals import Signals
from hybridkit.training.callback import Callbacks, TrainingStart
from hybridkit.training.checkpoint import Store, is_scheduled
from hybridkit.training.engine import Engine, Gradient
from hybridkit.training.freeze import frozen
from hybridkit.training.metrics_log import MetricsLog
from hybridkit.training.micro_batches import automatic_rows, micro_batches, num_targets
from hybridkit.training.objective import Objective
from hybridkit.training.reporter import Reporter
from hybridkit.training.schedule import RateSchedule, learning_rate
from hybridkit.training.state import TrainState, load_train_state
from hybridkit.training.throughput import Speed
from hybridkit.training.validation import bits_per_byte, validate

SPIKES = 5  # that are skipped between two checkpoints; one more stops the run


@dataclass
class LoopParts:
    """What a loop works with."""

    recipe: Recipe
    schedule: RateSchedule
    plan: Plan
    run: Run
    feed: Feed
    engine: Engine
    objective: Objective
    store: Store
    log: MetricsLog | None  # rank 0's
    reporter: Reporter
    callbacks: Callbacks  # rank 0's; none elsewhere
    about: dict[str, Any]  # of every manifest, but its step and files


class Loop:
    """Steps from `state` to the recipe's last."""

    def __init__(self, parts: LoopParts, state: TrainState) -> None:
        self._parts, self._state = parts, state
        self._train, self._engine, self._store = parts.recipe.train, parts.engine, parts.store
        sequence = parts.recipe.data.sequence
        engine, beside = parts.engine, parts.objective.held_bytes
        self.rows = (
            automatic_rows(parts.plan, self._train, sequence, engine.device, engine.precision, beside)
            if self._train.micro_batch == "auto"
            else self._train.micro_batch
        )
        self._speed = Speed(parts.plan, parts.engine, sequence, self.rows, objective=parts.objective)
        self._saved = (
            self._store.last.step if self._store.last else None
        )  # the step of the last checkpoint, which the background may still write
        self._complete = self._store.last  # the last checkpoint that callbacks know of

    def run(self) -> None:
        """Train until the last step, its checkpoint included.

        Raises Interrupted for a signal, after a checkpoint; Failure for a loss that is not finite or spikes; OSError.
        """
        with Signals() as signals:
            self._begin()
            while self._state.step < self._train.steps and not self._state.stopped:
                self._store.check()
                self._tell_checkpoint()
                if self._whole_step(signals):
                    self._after_update(signals)
                self._obey(signals)
            self._store.wait()
            self._tell_checkpoint()
        self._parts.reporter.finished()
        self._parts.reporter.message(str(self._speed))
        for said in filter(None, self._parts.callbacks.tell("summary")):
            self._parts.reporter.message(said)

    def _begin(self) -> None:
        """A rollback needs a checkpoint to return to; where there is none, save one now."""
        if self._train.on_spike != "rollback" or self._store.has(self._state.scheduled):
            return
        if self._state.scheduled is not None:
            self._parts.reporter.message(f"step-{self._state.scheduled} is gone: rollbacks return to {self._saved}")
        self._state.schedule()
        if self._saved is None:
            self._save()

    def _whole_step(self, signals: Signals) -> bool:
        """`_step`; what fails in it after a signal is the signal's doing, which a compiler may have got, too."""
        try:
            return self._step()
        except RuntimeError as error:
            if not signals.stop:
                raise
            self._store.wait()
            name, step = signal.Signals(signals.stop).name, self._state.step
            found = "no checkpoint yet" if self._saved is None else f"the checkpoint of step {self._saved}"
            said = f"{name}: step {step + 1} was not finished; there is {found}, and --resume goes on"
            raise Interrupted(said, signals.stop) from error

    def _step(self) -> bool:
        """One batch; whether it led to a step."""
        began = time.perf_counter()
        state, train = self._state, self._train
        batch = self._parts.feed.batch(state.position)
        if train.freeze:
            self._engine.freeze(frozen(self._parts.plan, train.freeze, state.step, train.steps))
        place = TrainStep(train.seed, state.step, train.steps, sequence=self._parts.recipe.data.sequence)
        windows = self._parts.plan.windows(place)
        targets = num_targets(batch)
        shares = micro_batches(batch, self.rows, self._engine.data_parallel_rank, self._engine.data_parallel_size)
        gradient = self._engine.gradients(shares, windows, targets)
        loss = gradient.nats / targets if targets else None
        self._refuse_non_finite(loss, gradient)
        if loss is not None and state.spikes(loss, train.spike):
            self._engine.zero_grad()
            self._pass_over(loss)
            return False
        lr = learning_rate(state.step, train, self._parts.schedule)
        self._engine.update(lr) if targets else self._engine.zero_grad()
        state.advance(loss)
        self._log(batch, windows, gradient, {"loss": loss, "lr": lr}, time.perf_counter() - began)
        return True

    def _log(
        self,
        batch: Batch,
        windows: Sequence[int | None],
        gradient: Gradient,
        measured: dict[str, float | None],
        seconds: float,
    ) -> None:
        window = _said(windows, self._parts.plan)
        line = {"step": self._state.step, **measured, "grad_norm": gradient.norm, "window": window}
        line["tokens"] = self._state.position * self._train.batch_tokens
        if isinstance(self._parts.feed, Mixture):
            line |= self._parts.feed.tokens(self._state.position)
        line |= gradient.metrics
        line |= self._speed.metrics(len(batch.tokens), windows, seconds) | self._engine.metrics()
        self._write(line)
        bits = bits_per_byte(gradient.nats, batch.bytes) if self._parts.objective.nats else None
        self._parts.callbacks.tell("on_step", line, bits)

    def _after_update(self, signals: Signals) -> None:
        """Validation, then a checkpoint, each where it is due."""
        step, last = self._state.step, self._state.step == self._train.steps
        measured = self._validate() if last or step % self._train.validate_every == 0 else {}
        measured = measured | self._measure(last)
        self._stop_if_met(measured)
        asked, signals.save = signals.save, 0
        wanted = self._engine.all_reduce_max(asked)
        if step % self._train.checkpoint_every == 0:
            self._state.schedule()
        best = self._train.best
        if best and is_scheduled(step, self._train) and (value := measured.get(best)) is not None:
            self._state.judge(best, value)
        if wanted or self._state.stopped or is_scheduled(step, self._train):
            self._save()

    def _validate(self) -> dict[str, Any]:
        self._parts.reporter.doing("validating")
        found = validate(self._engine, self._parts.plan, self._parts.feed, self.rows)
        if found["val_loss"] is not None and not math.isfinite(found["val_loss"]):
            raise self._failed(f"the validation loss is {found['val_loss']}", self._state.step)
        if self._train.ema:
            with self._engine.averaged():
                mean = validate(self._engine, self._parts.plan, self._parts.feed, self.rows)
            found |= {f"{key}_ema": value for key, value in mean.items()}
        line = {"step": self._state.step, **found}
        self._write(line)
        self._parts.callbacks.tell("on_validation", line)
        return line

    def _measure(self, last: bool) -> dict[str, Any]:
        """What callbacks measure at this step, on rank 0."""
        step, tell = self._state.step, self._parts.callbacks.tell
        if not any(tell("due", step, last)):
            return {}
        self._parts.reporter.doing("probing")
        model = self._engine.model
        model.tokenizer = self._parts.feed.tokenizer
        found = {name: value for one in tell("measure", step, last, model) for name, value in one.items()}
        line = {"step": step, **found}
        self._write(line)
        tell("on_probe", line)
        return line

    def _stop_if_met(self, measured: dict[str, Any]) -> None:
        """Make this step the last where a figure, which rank 0 may know alone, is what `train.until` waits for."""
        until = self._train.until
        if not until or not self._engine.all_reduce_max(int(until.met(measured))):
            return
        self._state.stopped = until.model_dump_json()
        if until.met(measured):
            found = f"{until.metric} is {measured[until.metric]:.6g}"
            self._parts.reporter.message(f"train.until is met: {found} after step {self._state.step}")

    def _obey(self, signals: Signals) -> None:
        """Stop for a signal that any rank got."""
        number = self._engine.all_reduce_max(signals.stop)
        step = self._state.step
        if not number or step == self._train.steps or self._state.stopped:
            return
        if self._saved != step:
            self._save()
        self._store.wait()
        self._tell_checkpoint()
        name = signal.Signals(number).name
        raise Interrupted(f"{name}: stopped after step {step}, with a checkpoint; --resume goes on", number)

    def _save(self) -> None:
        if self._parts.log:
            self._parts.log.sync()  # a checkpoint must not be newer than the lines on the disk
        about = {**self._parts.about, "step": self._state.step}
        self._store.save(self._engine.save(), self._state, about)
        self._saved = self._state.step

    def _tell_checkpoint(self) -> None:
        """Tell callbacks of a checkpoint that has become complete; it may have been written in the background."""
        last = self._store.last
        if last and last != self._complete:
            self._parts.callbacks.tell("on_checkpoint", last.folder, last.step)
        self._complete = last

    def _write(self, line: dict[str, Any]) -> None:
        if self._parts.log:
            self._parts.log.add(line)

    def _refuse_non_finite(self, loss: float | None, gradient: Gradient) -> None:
        sound = loss is None or math.isfinite(loss)
        if sound and math.isfinite(gradient.norm):
            return
        what = f"the gradient's norm is {gradient.norm}" if sound else f"the loss is {loss}"
        raise self._failed(f"{what}; the update was not made")

    def _pass_over(self, loss: float) -> None:
        """A spike: skip its batch, from here or from the last scheduled checkpoint, unless there were too many."""
        state, way = self._state, self._train.on_spike
        said = f"a loss of {loss:.4f} is more than {self._train.spike:g} above the recent median"
        spikes, skipped = state.passed_over + 1, state.position + 1
        if way == "stop" or spikes > SPIKES:
            raise self._failed(f"{said}; train.on_spike is {way}, and spikes since the last checkpoint: {spikes}")
        self._parts.reporter.message(f"step {state.step + 1}: {said}; {way}")
        if way == "rollback":
            self._roll_back()
        self._state.position, self._state.passed_over = skipped, spikes

    def _roll_back(self) -> None:
        """To the last scheduled checkpoint. The batches since then are not read again, nor that of the spike."""
        step = self._state.scheduled
        assert step is not None
        try:
            checkpoint = self._store.return_to(step)
            self._state = load_train_state(checkpoint)
            self._state.follow(self._train.best, self._parts.run)
            self._state.scheduled = step
        except Invalid as error:
            raise self._failed(f"no return to step-{step}: {error}; train.on_spike=skip needs no checkpoint") from error
        self._engine.load(checkpoint.folder)
        self._saved, self._complete = checkpoint.step, checkpoint
        if self._parts.log:
            lines = self._parts.log.cut(checkpoint.step)
            start = TrainingStart(self._parts.run.path, checkpoint.step, self._train.steps, lines)
            self._parts.callbacks.tell("on_rollback", start)

    def _failed(self, why: str, step: int | None = None) -> Failure:
        self._store.wait()
        last = self._store.last
        good = f"the last good checkpoint is {last.folder}" if last else "there is no checkpoint yet"
        return Failure(f"step {step or self._state.step + 1}: {why}; {good}")


def _said(windows: Sequence[int | None], plan: Plan) -> int | str | dict[str, int | str] | None:
    """The windows as a metrics line has them: one number where all are equal."""
    named = zip(plan.branches, windows, strict=True)
    drawn = {branch.name: said for branch, window in named if (said := said_window(window)) is not None}
    return next(iter(drawn.values())) if len(set(drawn.values())) == 1 else drawn or None
