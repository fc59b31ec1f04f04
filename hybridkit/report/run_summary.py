"""What is said where training begins, after its first steps, and where it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hybridkit.model.plan import Plan
from hybridkit.recipe.files import Loaded
from hybridkit.report.numbers import (
    format_bytes,
    format_count,
    format_duration,
    format_loss,
    format_parameters,
    format_speed,
)
from hybridkit.runs.metrics import last_steps
from hybridkit.system.terminal import as_argument
from hybridkit.training.callback import Callback, Line, TrainingStart
from hybridkit.training.estimate import without_activations

SETTLED = 5.0  # seconds of steps after which the time of the rest is said


class RunSummary(Callback):
    """Tells in a few lines what a run takes, how long it will last, and what came of it."""

    def __init__(self, loaded: Loaded, ranks: int, tell: Callable[[str], object]) -> None:
        self._loaded, self._ranks, self._tell = loaded, ranks, tell
        self._plan: Plan | None = None
        self._losses: list[float] = []
        self._validations: list[tuple[int, float]] = []
        self._bits: float | None = None
        self._checkpoint: Path | None = None

    def check(self, plan: Plan) -> None:
        self._plan = plan

    def on_start(self, start: TrainingStart) -> None:
        self._start, self._began, self._step = start, time.monotonic(), start.step
        self._settled: tuple[int, float] | None = None  # the first step that counts for the estimate, and its time
        for line in start.lines:
            self._remember(line)
        assert self._plan
        for said in _begin(without_activations(self._loaded, self._ranks, self._plan), start):
            self._tell(said)

    def on_rollback(self, start: TrainingStart) -> None:
        self._losses, self._validations, self._step = [], [], start.step
        for line in start.lines:
            self._remember(line)

    def on_step(self, line: Line, bits_per_byte: float | None) -> None:
        self._step = line["step"]
        self._remember(line)
        self._estimate(line["step"])

    def on_validation(self, line: Line) -> None:
        self._remember(line)

    def on_checkpoint(self, folder: Path, step: int) -> None:
        self._checkpoint = folder

    def summary(self) -> str:
        return "\n".join(self._end())

    def _remember(self, line: Line) -> None:
        if "val_loss" in line:
            self._bits = line["val_bits_per_byte"]
            if line["val_loss"] is not None:
                self._validations.append((line["step"], line["val_loss"]))
        elif line.get("loss") is not None:
            self._losses = [*self._losses, line["loss"]][-last_steps(line["step"]) :]

    def _estimate(self, step: int) -> None:
        """Say once how long the rest takes. The first step is left out: it compiles and warms up."""
        now = time.monotonic()
        if self._settled is None:
            self._settled = step, now
            return
        first, since = self._settled
        if first < 0 or now - since < SETTLED:
            return
        self._settled = -1, now
        left, each = self._start.steps - step, (now - since) / (step - first)
        if left > 0:
            speed = format_speed(self._loaded.recipe.train.batch_tokens / each)
            self._tell(
                f"about {format_duration(left * each)} for the other {left:,} steps at {speed} tokens/s; later"
                " validations, probes and checkpoints come on top"
            )

    def _end(self) -> Iterator[str]:
        train, run = self._loaded.recipe.train, self._start.run
        tokens = format_count(self._step * train.batch_tokens)
        here = "" if self._start.step == 0 else f" ({self._step - self._start.step:,} of them now)"
        took = format_duration(time.monotonic() - self._began)
        yield f"done: {self._step:,} steps{here}, {tokens} tokens, in {took}"
        if self._losses:
            mean = format_loss(sum(self._losses) / len(self._losses))
            of = "of the last step" if len(self._losses) == 1 else f"the mean of the last {len(self._losses)} steps"
            yield f"loss: {mean}, {of}{self._validated()}"
        if self._checkpoint:
            yield f"weights: {self._checkpoint}"
        said = as_argument(run)
        yield f'next: hybridkit generate {said} "..."; hybridkit eval {said}; hybridkit report {said}'

    def _validated(self) -> str:
        if not self._validations:
            return ""
        step, last = self._validations[-1]
        at, best = min(self._validations, key=lambda one: one[1])
        bits = "" if self._bits is None else f" ({self._bits:.3f} bits a byte)"
        better = f", best {format_loss(best)} after step {at:,}" if at != step else ""
        return f"; validation {format_loss(last)}{bits}{better}"


def _begin(e: dict[str, Any], start: TrainingStart) -> Iterator[str]:
    """Lines on what is about to be trained."""
    left = start.steps - start.step
    zero = f", ZeRO {e['zero']}" if e["zero"] else ""
    ranks = "" if e["ranks"] == 1 else f", {e['ranks']} ranks"
    each = e["tokens"] // e["steps"]
    yield f"model: {e['pattern']}, {format_parameters(e['parameters'])} parameters"
    yield f"on: {e['device']}, {e['precision']}, engine {e['engine']}{zero}{ranks}"
    yield (
        f"training: {left:,} steps of {each:,} tokens, {format_count(left * each)} tokens,"
        f" {e['flops_per_token'] * left * each:.2e} FLOPs"
    )
    yield (
        f"memory{' a rank' if ranks else ''}: {format_bytes(e['memory']['held'])} of weights, gradients and optimizer,"
        f" and activations of {e['micro_batch']} sequences at a time (--dry-run says how much)"
    )
