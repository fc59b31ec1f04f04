"""DeepSpeed's ranks compute what one process computes: real processes, gloo on a CPU, fp32 unless said otherwise."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from hybridkit.training.engine import open_engine
from hybridkit.training.ranks import free_port

pytest.importorskip("deepspeed", reason="needs the extra deepspeed")
from forked import Forked
from ranks import FEW, LENGTHS, PLAN, RANKS, STEPS, averaged, in_stretches, losses, settings, taught, trained

pytestmark = pytest.mark.slow  # ranks take seconds to start
STAGES = ["zero 0", "zero 1", "zero 2", "zero 3"]
CLOSE = 1e-5  # nats: sums in another order, over 8 updates, in fp32
Found = dict[str, Any]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What two ranks compute: once for all workers of pytest-xdist, whichever of them has tests of this file."""
    own = tmp_path_factory.getbasetemp()
    out = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "ranks.json"
    with out.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not out.exists():
            start_ranks(out)
    return json.loads(out.read_text())


def start_ranks(out: Path) -> None:
    with Forked(RANKS, str(free_port()), str(out), OMP_NUM_THREADS="1") as process:
        said = process.communicate(timeout=600)[1]
    assert process.returncode == 0, said[-3000:]


@pytest.fixture(scope="module")
def local() -> Found:
    return trained(settings("local"))


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_of_every_stage_agree_with_the_local_engine(found: Found, local: Found, stage: str) -> None:
    """One rank does in launch/test_launch.py, where it goes on from two."""
    there = found[stage]
    assert len(there["losses"]) == STEPS and there["losses"] == pytest.approx(local["losses"], abs=CLOSE)
    assert there["aside"] == pytest.approx(local["aside"], rel=1e-5), "norm before clipping, validation, and nothing"


def test_offloaded_and_recomputed_weights_change_nothing(found: Found, local: Found) -> None:
    assert found["offload"]["losses"] == pytest.approx(local["losses"][:FEW], abs=CLOSE)


def test_what_counts_nothing_has_no_gradient(local: Found) -> None:
    assert local["aside"][2:] == [0, 0]


def test_training_moves(local: Found) -> None:
    assert max(local["losses"]) - min(local["losses"]) > 0.1, "what does not move agrees with anything"


def test_bf16_is_the_local_engines_within_its_rounding(found: Found, local: Found) -> None:
    rounded = trained(settings("local", precision="bf16"), FEW)
    difference = max(abs(a - b) for a, b in zip(rounded["losses"], local["losses"], strict=False))
    assert difference > CLOSE, "bf16 is in use"
    assert found["bf16"]["losses"] == pytest.approx(rounded["losses"], abs=2 * difference)


@pytest.mark.parametrize("tokens", LENGTHS)
def test_two_ranks_that_share_sequences_compute_one_ranks_gradient(found: Found, tokens: int) -> None:
    there, here = found["sequence parallel"][str(tokens)], in_stretches(settings("local"), tokens)
    assert there["nats"] == pytest.approx(here["nats"], rel=1e-6)
    assert there["gradient"].keys() == here["gradient"].keys()
    for name, gradient in here["gradient"].items():
        assert there["gradient"][name] == pytest.approx(gradient, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("stage", ["0", "1", "2", "3"])
def test_a_checkpoint_goes_on_at_the_same_stage_the_next_and_locally(found: Found, stage: str) -> None:
    continued = dict(found["checkpoints"][stage])
    expected = continued.pop("expected")
    assert set(continued) == {"again", "local", "at the next stage"}
    for how, found_losses in continued.items():
        assert found_losses == pytest.approx(expected, abs=CLOSE), how


@pytest.mark.parametrize(
    ("how", "changes"),
    [
        ("averaged", {"ema": 0.8}),
        ("frozen", {"ema": 0.8, "freeze": {"mlstm": FEW // 2}}),
        ("frozen alone, then by ranks", {"ema": 0.8, "freeze": {"mlstm": FEW // 2}}),
    ],
)
def test_the_mean_of_weights_and_frozen_ones_are_the_local_engines(
    found: Found, how: str, changes: dict[str, Any]
) -> None:
    """At stages 2 and 0; the second half goes on from a checkpoint: what was frozen has had fewer updates."""
    alone = averaged(settings("local", **changes))
    assert found[how]["losses"] == pytest.approx(alone["losses"], abs=CLOSE)
    assert found[how]["mean"] == pytest.approx(alone["mean"], rel=1e-5)


def test_muon_of_two_ranks_agrees_with_one_process(found: Found) -> None:
    """Its second half also from the ranks' checkpoint."""
    train = settings("local", optimizer="muon")
    alone = losses(open_engine(PLAN, train), PLAN, train, range(FEW))
    assert found["muon"]["ranks"] == pytest.approx(alone, rel=CLOSE)
    assert found["muon"]["resumed"] == pytest.approx(alone[FEW // 2 :], rel=CLOSE)


@pytest.mark.parametrize(("stage", "loss"), [("0", "hidden"), ("1", "kl"), ("3", "kl")])
def test_with_a_teacher_two_ranks_agree_with_one_process(found: Found, stage: str, loss: str) -> None:
    assert found["taught"][stage] == pytest.approx(taught(settings("local"), loss), rel=CLOSE)
