"""DeepSpeed's ranks compute what one process computes: real processes, gloo on a CPU, fp32 unless said otherwise."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybridkit.training.ranks import free_port

pytest.importorskip("deepspeed", reason="needs the extra deepspeed")
from project import ROOT
from ranks import FEW, LENGTHS, STEPS, in_stretches, settings, trained

pytestmark = pytest.mark.slow  # ranks take seconds to start
STAGES = ["zero 0", "zero 1", "zero 2", "zero 3"]
CLOSE = 1e-5  # nats: sums in another order, over 20 updates, in fp32
Found = dict[str, Any]


def run_ranks(ranks: int, out: Path) -> Found:
    port = free_port()
    shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tests/helpers/ranks.py"), str(out)]
    processes = [
        subprocess.Popen(command, env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(ranks)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0] * ranks
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Found]:
    folder, known = tmp_path_factory.mktemp("ranks"), dict[int, Found]()

    def of(ranks: int) -> Found:
        if ranks not in known:
            known[ranks] = run_ranks(ranks, folder / f"{ranks}.json")
        return known[ranks]

    return of


@pytest.fixture(scope="module")
def local() -> Found:
    return trained(settings("local"))


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("stage", STAGES)
def test_stages_and_ranks_agree_with_the_local_engine(
    found: Callable[[int], Found], local: Found, stage: str, ranks: int
) -> None:
    there = found(ranks)[stage]
    assert len(there["losses"]) == (FEW if ranks == 1 else STEPS)
    assert there["losses"] == pytest.approx(local["losses"][: len(there["losses"])], abs=CLOSE)
    assert there["aside"] == pytest.approx(local["aside"], rel=1e-5), "norm before clipping, validation, and nothing"


def test_offloaded_and_recomputed_weights_change_nothing(found: Callable[[int], Found], local: Found) -> None:
    assert found(2)["offload"]["losses"] == pytest.approx(local["losses"][:FEW], abs=CLOSE)


def test_what_counts_nothing_has_no_gradient(local: Found) -> None:
    assert local["aside"][2:] == [0, 0]


def test_training_moves(local: Found) -> None:
    assert max(local["losses"]) - min(local["losses"]) > 0.1, "what does not move agrees with anything"


def test_bf16_is_the_local_engines_within_its_rounding(found: Callable[[int], Found], local: Found) -> None:
    rounded = trained(settings("local", precision="bf16"), FEW)
    difference = max(abs(a - b) for a, b in zip(rounded["losses"], local["losses"], strict=False))
    assert difference > CLOSE, "bf16 is in use"
    assert found(2)["bf16"]["losses"] == pytest.approx(rounded["losses"], abs=2 * difference)


@pytest.mark.parametrize("tokens", LENGTHS)
def test_two_ranks_that_share_sequences_compute_one_ranks_gradient(found: Callable[[int], Found], tokens: int) -> None:
    there, here = found(2)["sequence parallel"][str(tokens)], in_stretches(settings("local"), tokens)
    assert there["nats"] == pytest.approx(here["nats"], rel=1e-6)
    assert there["gradient"].keys() == here["gradient"].keys()
    for name, gradient in here["gradient"].items():
        assert there["gradient"][name] == pytest.approx(gradient, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("stage", ["0", "1", "2", "3"])
def test_a_checkpoint_goes_on_at_the_same_stage_the_next_and_locally(found: Callable[[int], Found], stage: str) -> None:
    continued = dict(found(2)["checkpoints"][stage])
    expected = continued.pop("expected")
    assert set(continued) == {"again", "local", "at the next stage"}
    for how, losses in continued.items():
        assert losses == pytest.approx(expected, abs=CLOSE), how
