"""Losses and loads that layers tell: in the gradient, in metrics, in the layers themselves, and in checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_batch import batch
from torch import Tensor

import hybridkit
from hybridkit.block import TrainStep, recording
from hybridkit.recipe.schema import Train
from hybridkit.registry.kinds import BLOCK
from hybridkit.registry.registry import REGISTRY
from hybridkit.training.engines.local.engine import LocalEngine
from hybridkit.training.freeze import frozen
from hybridkit.training.micro_batches import micro_batches, num_targets

PLAN = hybridkit.build("[swa:4, moe(4,2,8,aux=.5,correction=.01), swa:4, moe(6,1,8,aux=.25)]", width=16, heads=2).plan
WINDOWS = [4, None, 4, None]


def engine(**changes: Any) -> LocalEngine:
    return LocalEngine(PLAN, Train(**{"precision": "fp64", "device": "cpu"} | changes))


def gradient(engine: LocalEngine) -> Tensor:
    return torch.cat([p.grad.flatten() for p in engine.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("recompute", [False, True])
def test_losses_of_layers_are_in_the_gradient_and_not_in_the_loss(recompute: bool) -> None:
    """The objective written out: nats, and each call's own losses once for every target of that call."""
    b, ours, right = batch(), engine(recompute=recompute), engine()
    found = ours.gradients(micro_batches(b, 2), WINDOWS, num_targets(b))
    model, total, nats, own = right.model, 0.0, 0.0, 0.0
    for part in micro_batches(b, 2):
        with recording() as told:
            x, _ = model.hidden(part.tokens, windows=WINDOWS, document_starts=part.document_starts)
        loss, mine = model.head(x, part.targets), sum(one.loss for one in told) * num_targets(part)
        assert len(told) == 2
        total, nats, own = total + loss + mine, nats + loss.item(), own + mine.item()
    (total / num_targets(b)).backward()
    assert found.nats == pytest.approx(nats, rel=1e-12)
    assert found.metrics["aux_loss"] == pytest.approx(own / num_targets(b), rel=1e-12)
    torch.testing.assert_close(gradient(ours), gradient(right), rtol=1e-9, atol=1e-12)


def test_metrics_say_how_evenly_experts_were_loaded() -> None:
    b, one = batch(), engine()
    found = one.gradients([b], WINDOWS, num_targets(b)).metrics
    with recording() as told:
        one.model(b.tokens, windows=WINDOWS, document_starts=b.document_starts)
    for entry, heard in zip(("1", "3"), told, strict=True):
        assert found["expert_load"][entry] == pytest.approx((heard.load.max() / heard.load.double().mean()).item())
    assert found["idle_experts"] == sum(int((heard.load == 0).sum()) for heard in told)
    plain = LocalEngine(hybridkit.build("[swa:4]", width=16, heads=2).plan, Train(precision="fp64", device="cpu"))
    assert plain.gradients([b], [4, None], num_targets(b)).metrics == {}, "other runs' lines stay as they were"


def test_a_correction_moves_with_updates_alone_and_is_kept_in_checkpoints(tmp_path: Path) -> None:
    b, one, other = batch(), engine(), engine()
    correction = one.model.get_buffer("layers.1.moe.correction")
    one.gradients([b], WINDOWS, num_targets(b))
    one.zero_grad()
    assert not correction.any(), "nothing was updated"
    one.gradients([b], WINDOWS, num_targets(b))
    one.update(1e-3)
    assert set(correction.abs().tolist()) <= {0.0, 0.01} and correction.any()
    one.save().write(tmp_path)
    other.load(tmp_path)
    assert torch.equal(other.model.get_buffer("layers.1.moe.correction"), correction)
    ours, right = (e.gradients([b], WINDOWS, num_targets(b)).nats for e in (other, one))
    assert ours == right


@pytest.mark.parametrize("name", REGISTRY.names(BLOCK))
def test_no_tensor_of_a_frozen_block_changes(name: str) -> None:
    """Buffers, too: the correction of frozen experts went on moving."""
    said = {"moe": "moe(4,2,8,aux=.5,correction=.01)", "swa": "swa:4"}.get(name, name)
    plan = hybridkit.build(f"[{said}, conv]", width=32, heads=2).plan
    one, b = LocalEngine(plan, Train(precision="fp32", device="cpu")), batch()
    before = {key: value.clone() for key, value in one.model.state_dict().items()}
    one.freeze(frozen(plan, {"0": 2}, 0, 3))
    one.gradients([b], plan.windows(TrainStep(0, 0, 3)), num_targets(b))
    one.update(1e-2)
    for key, value in one.model.state_dict().items():
        assert torch.equal(value, before[key]) == key.startswith("layers.0."), key
