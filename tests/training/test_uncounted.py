"""Where no target is counted there is no loss: null, and compared with nothing."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from compare import untimed
from told import Go

import hybridkit
from hybridkit.data.batches import IGNORED, Batch, Feed
from hybridkit.recipe.schema import Train
from hybridkit.report.curves import curves_of, draw_curves, print_curves
from hybridkit.report.figure import save_figure
from hybridkit.report.progress import figures
from hybridkit.runs.run import Run
from hybridkit.search.objectives import UnknownMetric, look_up, run_metrics
from hybridkit.search.pruner import running_losses
from hybridkit.training.engines.local.engine import LocalEngine
from hybridkit.training.micro_batches import micro_batches, num_targets
from hybridkit.training.state import FEWEST, TrainState
from hybridkit.training.validation import validate

PLAN = hybridkit.build("[swa:4, mlstm]", width=16, heads=2).plan
WINDOWS = [4, None, None, None]
SPARSE = (
    "data.source=recall(pairs=6, noise=.9)", "data.validation=.02", "train.batch_tokens=32", "train.steps=30",
    "train.lr=1e-3", "train.validate_every=30", "pattern=swa:4", "train.spike=.5", "train.precision=fp32",
)  # fmt: skip


def nothing(rows: int = 3) -> Batch:
    ids = torch.randint(257, (rows, 12), generator=torch.Generator().manual_seed(0))
    return Batch(ids, torch.full_like(ids, IGNORED), torch.zeros(rows, 12, dtype=torch.bool), 0)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_gradient_is_zero(rows: int, precision: str) -> None:
    engine, batch = LocalEngine(PLAN, Train(precision=precision, device="cpu")), nothing()
    assert num_targets(batch) == 0
    assert engine.gradients(micro_batches(batch, rows), WINDOWS, 0) == (0.0, 0.0, {})


@pytest.fixture(scope="module")
def sparse(go: Go, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of which some steps count nothing, more than 20 losses among them."""
    run, updates = Run(tmp_path_factory.mktemp("sparse") / "run"), list[float]()
    update = LocalEngine.update
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalEngine, "update", lambda self, lr: (updates.append(lr), update(self, lr))[1])
        go(run.path, *SPARSE)
    losses = [line["loss"] for line in untimed(run) if "loss" in line]
    assert 0 < losses.count(None) < len(losses) == 30
    assert len(updates) == 30 - losses.count(None), "a batch that says nothing changes nothing"
    return run


@pytest.mark.slow
def test_a_loss_is_null_or_of_the_usual_size(sparse: Run) -> None:
    lines = [line for line in untimed(sparse) if "loss" in line]
    assert all(line["loss"] is None or line["loss"] > 1 for line in lines), "no zeros"
    assert all(line["grad_norm"] == 0 for line in lines if line["loss"] is None)
    assert sparse.metrics().damaged == 0


def test_it_is_not_drawn_and_stands_in_no_mean(sparse: Run, tmp_path: Path) -> None:
    curves = curves_of([sparse.path])
    losses = [line["loss"] for line in untimed(sparse) if line.get("loss") is not None]
    tenth = losses[-math.ceil(len(losses) / 10) :]
    assert curves[0].summary()["loss"] == pytest.approx(sum(tenth) / len(tenth)), "the last tenth"
    print_curves(curves)
    save_figure(draw_curves(curves), tmp_path / "curves.svg")
    assert run_metrics(sparse)["loss"] == curves[0].summary()["loss"]


def test_a_run_without_any_loss_has_none_to_be_ranked_by(sparse: Run, tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.metrics_file.write_text(
        '{"step": 1, "loss": null, "tokens": 8, "seconds": 1, "tokens_per_second": 8}\n'
        '{"step": 1, "val_loss": null, "val_bits_per_byte": null}\n'
    )
    assert run_metrics(run).keys() == {"seconds", "tokens_per_second"}
    with pytest.raises(UnknownMetric):
        look_up(run_metrics(run), "val_loss")
    assert running_losses(run.metrics().lines, [1]) == {}
    (curve,) = curves_of([run.path])
    assert (curve.summary()["loss"], curve.summary()["val_loss"]) == (None, None)
    print_curves([curve])
    save_figure(draw_curves([curve]), tmp_path / "curves.svg")


def test_people_read_a_dash() -> None:
    step = {"loss": None, "window": None, "tokens_per_second": 1.0}
    assert figures(step, None).startswith("loss -")
    assert figures({"val_loss": None, "val_bits_per_byte": None}, None) == "validation loss -"


class Sparse:
    """A feed whose held-out text counts nothing."""

    def validation(self) -> Iterator[Batch]:
        yield nothing()


def test_a_validation_without_targets_is_null() -> None:
    engine = LocalEngine(PLAN, Train(precision="fp32", device="cpu"))
    feed: Feed = Sparse()  # type: ignore[assignment]
    assert validate(engine, PLAN, feed, 2) == {"val_loss": None, "val_bits_per_byte": None}


def test_it_is_no_spike_and_no_measure_of_one() -> None:
    state = TrainState()
    for _ in range(FEWEST):
        state.advance(5.0)
        state.advance(None)
    assert state.recent == [5.0] * FEWEST and (state.step, state.position) == (2 * FEWEST, 2 * FEWEST)
    assert not state.spikes(None, 0.1) and state.spikes(5.2, 0.1)
