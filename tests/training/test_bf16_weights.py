"""Weights cast once a step: what autocast computes, bit for bit, and the same over micro-batches and recomputation."""

import pytest
import torch
from small_batch import PLAN, WINDOWS, batch
from torch import Tensor

import hybridkit
from hybridkit.recipe.schema import Train
from hybridkit.training.bf16_weights import narrow_names
from hybridkit.training.engines.local.engine import LocalEngine
from hybridkit.training.micro_batches import micro_batches, num_targets


def test_the_weights_that_are_cast_are_those_of_products_and_no_others() -> None:
    model = hybridkit.build("[swa:8, mlstm]", width=16, heads=2)
    names = set(narrow_names(model))
    assert {f"layers.0.swa.{part}.weight" for part in ("q", "k", "v", "out")} <= names
    assert {f"layers.2.mlstm.{part}.weight" for part in ("q", "k", "v", "ogate", "out")} <= names
    assert {f"layers.1.ffn.{part}.weight" for part in ("gate", "up", "down")} <= names
    assert not [name for name in names if "norm" in name or "igate" in name or "fgate" in name]


def by_autocast(engine: LocalEngine, rows: int) -> tuple[float, list[Tensor | None]]:
    """The loss, and the gradients of all weights, of the fp32 model under autocast."""
    b, nats = batch(), 0.0
    engine.model.zero_grad(set_to_none=True)
    for part in micro_batches(b, rows):
        with torch.autocast("cpu", torch.bfloat16):
            given = {"windows": WINDOWS, "document_starts": part.document_starts, "targets": part.targets}
            loss, _ = engine.model(part.tokens, **given)
        (loss / num_targets(b)).backward()
        nats += loss.item()
    return nats, [p.grad for p in engine.model.parameters()]


@pytest.mark.parametrize("recompute", [False, True])
def test_losses_and_gradients_of_several_steps_are_those_of_autocast(recompute: bool) -> None:
    engines = [LocalEngine(PLAN, Train(precision="bf16", device="cpu", recompute=recompute)) for _ in range(2)]
    for _ in range(3):
        b = batch()
        found = engines[0].gradients(micro_batches(b, 2), WINDOWS, num_targets(b))
        ours = [p.grad for p in engines[0].model.parameters()]
        engines[1]._norm = torch.tensor(found.norm)
        nats, right = by_autocast(engines[1], 2)
        assert found.nats == nats
        torch.testing.assert_close(ours, right, rtol=0, atol=0)
        for engine in engines:
            engine.update(1e-2)
    losses = [engine.evaluate([batch()], WINDOWS) for engine in engines]
    assert losses[0] == losses[1], "evaluation reads the weights as they are"
