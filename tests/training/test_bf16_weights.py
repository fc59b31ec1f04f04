"""Weights cast once a step: what autocast computes, bit for bit, and the same over micro-batches and recomputation."""

import pytest
import torch
from small_batch import PLAN, WINDOWS, batch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import hybridkit
from hybridkit.model.model import Model
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
    assert "layers.0.mamba2.in_proj.weight" in narrow_names(hybridkit.build("mamba2", width=16, heads=2))


class Casts(TorchDispatchMode):
    """The tensors that are cast, by their address."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = list[int]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch.ops.aten._to_copy.default:
            self.taken.append(args[0].data_ptr())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("pattern", ["[swa:8, mlstm]", "[gdn, mamba2]", "[kda, rglru, conv, mla]"])
def test_a_forward_pass_casts_no_matrix_of_a_layer(pattern: str) -> None:
    model = hybridkit.build(pattern, width=16, heads=2)
    engine = LocalEngine(model.plan, Train(precision="bf16", device="cpu"))
    assert not cast_matrices(engine.working)
    assert cast_matrices(model), "those of a model in fp32 are cast, and seen here"


def cast_matrices(model: Model) -> list[str]:
    with Casts() as casts, torch.autocast("cpu", torch.bfloat16):
        model.hidden(batch().tokens, document_starts=batch().document_starts)
    named = ((name, weight) for name, weight in model.named_parameters() if name.startswith("layers."))
    weights = {weight.data_ptr(): name for name, weight in named if weight.dim() > 1}
    return [weights[place] for place in casts.taken if place in weights]


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


@pytest.mark.slow
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
