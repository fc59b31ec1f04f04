"""A run that is interrupted anywhere and resumed is the run that was not, spikes, skips and rollbacks included."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from compare import assert_same
from told import Go

from hybridkit.data.batches import Batch, Batches
from hybridkit.runs.run import Run
from hybridkit.system.errors import Failure, Interrupted
from hybridkit.training.engine import Gradient
from hybridkit.training.engines.local.engine import LocalEngine
from hybridkit.training.loop import Loop

SHORT = ("pattern=swa:4", "train.batch_tokens=32", "train.precision=fp32")
SCHEDULE = ("train.steps=30", "train.checkpoint_every=6", "train.validate_every=10", "train.lr=1e-3")
SPIKES = {26, 28}  # places in the data: behind a checkpoint of its schedule, and behind the first rollback
PLAIN = (*SHORT, *SCHEDULE)

Interrupt = Callable[[], None]


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of the program runs after it, no clean-up either."""


def kill() -> None:
    raise Killed


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def save() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


@pytest.fixture
def spikes(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[int]]:
    """Batches, by their place in the data, whose loss is 20 nats more: the same in every process that reads them."""
    places, read, honest = set(SPIKES), Batches.batch, LocalEngine.gradients
    place = -1

    def batch(self: Batches, step: int, *rows: slice) -> Batch:
        nonlocal place
        place = step
        return read(self, step, *rows)

    def gradients(self: LocalEngine, batches: Any, windows: Any, num_targets: int) -> Gradient:
        found = honest(self, batches, windows, num_targets)
        return found._replace(nats=found.nats + 20 * num_targets) if place in places else found

    monkeypatch.setattr(Batches, "batch", batch)
    monkeypatch.setattr(LocalEngine, "gradients", gradients)
    yield places


def interrupt_in(monkeypatch: pytest.MonkeyPatch, steps: dict[int, Interrupt]) -> None:
    """Interrupt the first time that each of the steps is made."""
    whole_step = Loop._step

    def interrupted(self: Loop) -> bool:
        if now := steps.pop(self._state.step + 1, None):
            now()
        return whole_step(self)

    monkeypatch.setattr(Loop, "_step", interrupted)


def go_on(go: Go, run: Run, *words: str) -> None:
    """Train until the end, resuming after every interruption."""
    for _ in range(9):
        try:
            return void(go(run.path, *words, resume=run.begun))
        except (Interrupted, Killed):
            continue
    raise AssertionError("it does not come to an end")


def void(_: object) -> None:
    return None


@pytest.mark.slow
@pytest.mark.parametrize("way", ["skip", "rollback"])
def test_interrupted_runs_equal_the_uninterrupted_one(
    go: Go, tmp_path: Path, spikes: set[int], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Step 25 is the first after a checkpoint of the schedule, and the one in which the first spike falls is 27."""
    words = (*PLAIN, f"train.on_spike={way}")
    whole = Run(tmp_path / "whole")
    go(whole.path, *words)
    cases: list[dict[int, Interrupt]] = [
        {26: terminate}, {26: save, 27: terminate}, {25: terminate, 26: terminate, 27: kill},
        {3: kill, 20: terminate, 26: save, 29: kill},
    ]  # fmt: skip
    for place, steps in enumerate(cases):
        run = Run(tmp_path / str(place))
        with monkeypatch.context() as patch:
            interrupt_in(patch, steps)
            go_on(go, run, *words)
        assert not steps, "every interruption took place"
        assert_same(run, whole)


@pytest.mark.slow
def test_the_count_of_spikes_is_carried(go: Go, tmp_path: Path, spikes: set[int], monkeypatch: Any) -> None:
    """Five of them between two checkpoints are passed over, and the sixth stops the run, with a signal in between."""
    spikes |= set(range(25, 40))
    for place, steps in enumerate(({}, {25: terminate}, {24: terminate, 25: save})):
        run = Run(tmp_path / str(place))
        with monkeypatch.context() as patch, pytest.raises(Failure, match="spikes since the last checkpoint: 6"):
            interrupt_in(patch, steps)
            go_on(go, run, *PLAIN, "train.on_spike=skip")
        assert not steps


@pytest.mark.slow
def test_signals_leave_the_scheduled_checkpoints_alone(
    go: Go, tmp_path: Path, spikes: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`keep` of them stay, and the newest is there for a rollback, however often somebody asks for a save."""
    spikes.clear()
    run, words = Run(tmp_path / "run"), (*SHORT, "train.steps=11", "train.checkpoint_every=3", "train.keep=2")
    interrupt_in(monkeypatch, {4: save, 5: save, 7: save, 8: terminate, 10: save, 11: save})
    with pytest.raises(Interrupted):
        go(run.path, *words)
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [8, 7, 6, 3]
    go(run.path, *words, resume=True)
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [11, 10, 9]


@pytest.mark.slow
def test_a_rollback_whose_checkpoint_is_damaged_is_a_message(
    go: Go, tmp_path: Path, spikes: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, words = Run(tmp_path / "run"), (*PLAIN, "train.on_spike=rollback")
    interrupt_in(monkeypatch, {26: terminate})
    with pytest.raises(Interrupted):
        go(run.path, *words)
    (run.checkpoint_folder / "step-24" / "model.safetensors").write_bytes(b"")
    with pytest.raises(Failure, match=r"step 27: no return to step-24: model\.safetensors has 0 bytes.*=skip"):
        go(run.path, *words, resume=True)
