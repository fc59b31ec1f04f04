"""What is done about losses that are not finite or jump."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest
import torch
from compare import assert_same, untimed
from told import Go

from hybridkit.runs.run import Run
from hybridkit.system.errors import Failure
from hybridkit.training.engine import Gradient
from hybridkit.training.engines.local.engine import LocalEngine
from hybridkit.training.state import FEWEST, RECENT, TrainState

MANY = ("train.steps=30", "train.checkpoint_every=11", "train.validate_every=30", "train.lr=1e-3")


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, Gradient]]:
    """Gradient number (from 0, over the whole test) -> what the engine makes of it."""
    spoiled: dict[int, Gradient] = {}
    honest, calls = LocalEngine.gradients, iter(range(10**6))

    def gradients(self: LocalEngine, *args: object) -> Gradient:
        return spoiled.get(next(calls)) or honest(self, *args)

    monkeypatch.setattr(LocalEngine, "gradients", gradients)
    yield spoiled


SPIKE = Gradient(nats=128 * 20.0, norm=1.0)


@pytest.mark.parametrize(
    ("bad", "said"), [(Gradient(math.nan, 1.0), "loss is nan"), (Gradient(1.0, math.inf), "norm is inf")]
)
def test_non_finite_stops_before_the_update(
    go: Go, tmp_path: Path, spoil: dict[int, Gradient], bad: Gradient, said: str
) -> None:
    run = Run(tmp_path / "run")
    spoil[5] = bad
    with pytest.raises(Failure, match=rf"step 6: .*{said}; the update was not made; .*step-4"):
        go(run.path)
    assert untimed(run)[-1]["step"] == 5 and run.newest().checkpoint.step == 4


def test_an_overflow_of_the_model_itself_is_caught(go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update = LocalEngine.update

    def explode(self: LocalEngine, lr: float) -> None:
        update(self, lr)
        with torch.no_grad():
            self.model.embedding.weight.fill_(math.nan)

    monkeypatch.setattr(LocalEngine, "update", explode)
    with pytest.raises(Failure, match="step 2: the loss is nan"):
        go(tmp_path / "run")


def test_a_validation_that_is_not_finite_stops_before_the_checkpoint(
    go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "run")
    monkeypatch.setattr(LocalEngine, "evaluate", lambda *_: math.inf)
    with pytest.raises(Failure, match=r"step 8: the validation loss is inf; .*step-4"):
        go(run.path, "train.validate_every=8")
    assert run.newest().checkpoint.step == 4 and run.metrics().damaged == 0


@pytest.mark.slow
def test_stop(go: Go, tmp_path: Path, spoil: dict[int, Gradient]) -> None:
    spoil[25] = SPIKE
    with pytest.raises(Failure, match=r"step 26: .*more than 2 above .*step-22"):
        go(tmp_path / "run", *MANY)


@pytest.mark.slow
def test_skip_leaves_the_batch_out_and_a_resumed_run_too(go: Go, tmp_path: Path, spoil: dict[int, Gradient]) -> None:
    run = Run(tmp_path / "run")
    spoil[25] = SPIKE
    told = go(run.path, *MANY, "train.on_spike=skip")
    assert "step 26" in told
    steps = [line["step"] for line in untimed(run) if "loss" in line]
    assert steps == list(range(1, 31))
    state = TrainState.model_validate_json((run.checkpoint_folder / "step-30" / "state.json").read_bytes())
    assert (state.step, state.position) == (30, 31)

    again = Run(tmp_path / "again")
    shutil.copytree(run.path, again.path)
    shutil.rmtree(again.checkpoint_folder / "step-30")
    spoil[31 + 25 - 22] = SPIKE  # 31 gradients were asked for so far; step 22 is gone on from
    go(again.path, *MANY, "train.on_spike=skip", resume=True)
    assert_same(again, run)


@pytest.mark.slow
def test_rollback_goes_on_behind_the_spike_from_the_last_checkpoint(
    go: Go, tmp_path: Path, spoil: dict[int, Gradient]
) -> None:
    run = Run(tmp_path / "run")
    spoil[25] = SPIKE
    go(run.path, *MANY, "train.on_spike=rollback")
    assert [line["step"] for line in untimed(run) if "loss" in line] == list(range(1, 31))
    state = TrainState.model_validate_json((run.checkpoint_folder / "step-30" / "state.json").read_bytes())
    assert (state.step, state.position) == (30, 26 + 30 - 22)  # batches 22 to 25 are not read again


@pytest.mark.slow
def test_spikes_without_end_stop(go: Go, tmp_path: Path, spoil: dict[int, Gradient]) -> None:
    spoil.update(dict.fromkeys(range(25, 40), SPIKE))
    with pytest.raises(Failure, match="spikes since the last checkpoint: 6"):
        go(tmp_path / "run", *MANY, "train.on_spike=skip")


def test_the_median_is_that_of_the_recent_losses() -> None:
    state = TrainState()
    for number in range(RECENT + 50):
        assert not (number < FEWEST and state.spikes(1e9, 1.0))
        state.advance(float(number))
    assert state.recent == [float(n) for n in range(50, RECENT + 50)]
    level = median(state.recent)
    assert state.spikes(level + 1.01, 1.0) and not state.spikes(level + 1, 1.0)


@pytest.mark.parametrize(("way", "batches"), [("skip", 7), ("rollback", 8)])
def test_tokens_of_the_parts_sum_to_the_tokens_that_were_read(
    go: Go,
    text: Path,
    tmp_path: Path,
    spoil: dict[int, Gradient],
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    batches: int,
) -> None:
    """After a skip or a rollback `tokens` counted steps, and the parts batches."""
    monkeypatch.setattr("hybridkit.training.state.FEWEST", 2)
    run, spoil[5] = Run(tmp_path / "run"), SPIKE
    mixture = f"data.source=[{{source: {text}, weight: .7}}, {{source: recall(pairs=2), weight: .3, name: r}}]"
    go(run.path, mixture, "train.steps=6", f"train.on_spike={way}")
    lines = [line for line in untimed(run) if "loss" in line]
    assert all(line[f"tokens.{text}"] + line["tokens.r"] == line["tokens"] for line in lines)
    assert [line["step"] for line in lines] == list(range(1, 7)) and lines[-1]["tokens"] == batches * 128
