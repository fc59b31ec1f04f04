"""Training in bf16 on a CPU: under autocast nearly every layer takes another path than in fp32."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from compare import assert_same, untimed
from forked import COMMAND_LINE, Forked
from small_batch import PLAN, WINDOWS, batch
from told import Go
from torch import Tensor

from hybridkit.cli import verbs
from hybridkit.recipe.schema import Train
from hybridkit.runs.run import Run
from hybridkit.system.errors import Interrupted
from hybridkit.training.engines.local.engine import LocalEngine
from hybridkit.training.loop import Loop
from hybridkit.training.micro_batches import micro_batches, num_targets

BF16 = "train.precision=bf16"
ROUNDING = 2.0**-8  # of a number in bf16, which has 8 bits
PRODUCTS = 10  # roundings that stand one after another on the way to a gradient of `PLAN`: four layers, there and back


@pytest.fixture(scope="module")
def narrow(go: Go, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An uninterrupted run in bf16; not to be written to."""
    run = Run(tmp_path_factory.mktemp("bf16") / "run")
    go(run.path, BF16)
    return run


@pytest.mark.slow
def test_it_learns_and_validates(narrow: Run, whole: Run) -> None:
    losses = [[line["loss"] for line in untimed(run) if "loss" in line] for run in (narrow, whole)]
    assert losses[0] != losses[1], "bf16 is in use"
    assert losses[0][-1] < losses[0][0] - 1
    found, exact = ([line["val_loss"] for line in untimed(run) if "val_loss" in line] for run in (narrow, whole))
    # Each loss is rounded as a number is; training in another rounding adds to that, and is bounded by what it learns.
    assert found == pytest.approx(exact, rel=PRODUCTS * ROUNDING)
    assert all(weight.dtype == torch.float32 for weight in narrow.weights().values())


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 6])
def test_stopped_and_resumed_it_is_the_same_bit_for_bit(
    narrow: Run, go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    run, whole_step = Run(tmp_path / "run"), Loop._step

    def signalled(self: Loop) -> bool:
        if self._state.step == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole_step(self)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Loop, "_step", signalled)
        go(run.path, BF16)
    go(run.path, BF16, resume=True)
    assert_same(run, narrow)


@pytest.mark.slow
def test_killed_and_resumed_it_is_the_same_bit_for_bit(narrow: Run, go: Go, recipe: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with Forked(COMMAND_LINE, "train", str(recipe), BF16, "--run", str(run.path)) as process:
        while process.poll() is None and len(run.metrics().lines) < 6:
            time.sleep(0.002)
        process.kill()
    go(run.path, BF16, resume=True)
    assert_same(run, narrow)


@pytest.mark.slow
def test_it_is_evaluated_and_generated_from(narrow: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    validation = [line["val_bits_per_byte"] for line in untimed(narrow) if "val_loss" in line]
    verbs()(["eval", str(narrow.path), "--context", "32", "--device", "cpu", "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)["perplexity"]
    bits = [line["bits_per_byte"] for lines in found.values() for line in lines]
    # Rows of the same length, but documents flow into each other: the same text, in a slightly other context.
    assert bits == pytest.approx(validation[-1:], rel=0.1)
    verbs()(["generate", str(narrow.path), "window", "--tokens", "5", "--temperature", "0"], standalone_mode=False)
    assert len(capsys.readouterr().out) > 1


def gradient(rows: int) -> tuple[float, Tensor, float]:
    """Nats, the gradient over micro-batches of `rows`, and the sum of the sizes of its parts."""
    engine, sizes, b = LocalEngine(PLAN, Train(precision="bf16", device="cpu")), 0.0, batch()
    for part in micro_batches(b, rows):
        sizes += engine.gradients([part], WINDOWS, num_targets(b)).norm
    nats = engine.gradients(micro_batches(b, rows), WINDOWS, num_targets(b)).nats
    return nats, torch.cat([p.grad.flatten() for p in engine.model.parameters() if p.grad is not None]), sizes


@pytest.mark.parametrize("rows", [1, 2])
def test_micro_batches_add_up_within_what_bf16_rounds(rows: int) -> None:
    """Every micro-batch rounds its own part, of whose size the error is a share; the sum itself is kept in fp32."""
    (nats, parts, sizes), (whole_nats, whole, _) = gradient(rows), gradient(5)
    assert nats == pytest.approx(whole_nats, rel=ROUNDING)
    assert (parts - whole).norm() <= PRODUCTS * ROUNDING * sizes
    assert (parts - whole).norm() <= PRODUCTS * ROUNDING * whole.norm() * 2, "the parts do not cancel here"
