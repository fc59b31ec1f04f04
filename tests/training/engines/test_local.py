"""The local engine: what a gradient is, whichever way it is computed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_batch import PLAN, WINDOWS, batch
from torch import Tensor

from hybridkit.block import Layer
from hybridkit.recipe.schema import Train
from hybridkit.training.engines.local.engine import LocalEngine
from hybridkit.training.micro_batches import micro_batches, num_targets
from hybridkit.training.optimizer_state import parameter_groups


def engine(**changes: Any) -> LocalEngine:
    return LocalEngine(PLAN, Train(**{"precision": "fp64", "device": "cpu"} | changes))


def gradient(engine: LocalEngine) -> Tensor:
    return torch.cat([p.grad.flatten() for p in engine.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_micro_batches_add_up_to_the_mean_over_counted_targets(rows: int) -> None:
    whole, parts, b = engine(), engine(), batch()
    loss, _ = whole.model(b.tokens, windows=WINDOWS, document_starts=b.document_starts, targets=b.targets)
    (loss / int((b.targets >= 0).sum())).backward()
    found = parts.gradients(micro_batches(b, rows), WINDOWS, num_targets(b))
    torch.testing.assert_close(found.nats, loss.item(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient(parts), gradient(whole), rtol=1e-9, atol=1e-12)
    assert found.norm == pytest.approx(gradient(whole).norm().item(), rel=1e-12)


def test_replicas_share_a_batch_and_add_up() -> None:
    b, alone = batch(), engine()
    expected = alone.gradients(micro_batches(b, 5), WINDOWS, num_targets(b)).nats
    shares = [micro_batches(b, 2, data_parallel_rank, 3) for data_parallel_rank in range(3)]
    assert len({len(share) for share in shares}) == 1, "every rank makes as many passes"
    found = sum(engine().gradients(share, WINDOWS, num_targets(b)).nats for share in shares)
    assert found == pytest.approx(expected, rel=1e-12)


def test_compiled_layers_see_one_number_of_rows() -> None:
    """A last batch with fewer rows would compile every layer anew."""
    one, rows = engine(), list[int]()
    parts = micro_batches(batch(), 2)
    assert len(parts[-1].tokens) == 1
    expected = one.evaluate(parts, WINDOWS)
    one.gradients(parts, WINDOWS, 1)
    one._compiled = True
    one.model.embedding.register_forward_hook(lambda layer, given, made: rows.append(len(made)))
    assert one.evaluate(parts, WINDOWS) == pytest.approx(expected, rel=1e-12) and set(rows) == {2}


def test_recompute_changes_nothing() -> None:
    b, plain, again = batch(), engine(), engine(recompute=True)
    for one in (plain, again):
        one.gradients([b], WINDOWS, num_targets(b))
    assert torch.equal(gradient(plain), gradient(again))


def test_bf16_is_near_fp32_and_keeps_fp32_weights() -> None:
    b, narrow, wide = batch(), engine(precision="bf16"), engine(precision="fp32")
    near, exact = (one.gradients([b], WINDOWS, num_targets(b)).nats for one in (narrow, wide))
    assert near == pytest.approx(exact, rel=2e-2) and near != exact  # bf16 has 8 bits
    assert all(p.dtype == torch.float32 for p in narrow.model.parameters())


def test_clipping_bounds_the_gradient_that_is_stepped_with() -> None:
    clipped, free = engine(clip=1e-3, weight_decay=0.0), engine(clip=None, weight_decay=0.0)
    for one in (clipped, free):
        one.gradients([batch()], WINDOWS, 1)
        one.update(1.0)
    # The second moment is (1 - beta2) g^2 after one step.
    squares = [
        sum(s["exp_avg_sq"].sum().item() for s in one._optimizer.state.values()) / 0.05 for one in (clipped, free)
    ]
    assert squares[0] == pytest.approx(1e-6, rel=1e-2) and squares[1] > 1


def test_a_seed_gives_the_weights_and_leaves_torch_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = engine(), engine(), engine(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    weights = [e.model.embedding.weight for e in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_decay_spares_norms_biases_and_gates() -> None:
    model = engine().model
    decays, spared = (group["params"] for group in parameter_groups(model, 0.1))
    names = {id(p): name for name, p in model.named_parameters()}
    spared_names = {names[id(p)] for p in spared}
    gates = {f"{n}.{m}.weight" for n, layer in model.named_modules() if isinstance(layer, Layer)
             for m in ("igate", "fgate") if hasattr(layer, m)}  # fmt: skip
    assert gates and gates <= spared_names
    assert {name for name in names.values() if "norm" in name or name.endswith("bias")} <= spared_names
    assert {"embedding.weight", "head.weight"} <= {names[id(p)] for p in decays}
    assert len(decays) + len(spared) == len(names)


def test_a_tied_weight_is_saved_once_and_comes_back(tmp_path: Path) -> None:
    tied = replace(PLAN, config=replace(PLAN.config, tie=True))
    one, other = (LocalEngine(tied, Train(seed=seed, precision="fp32", device="cpu")) for seed in (0, 1))
    for _ in range(2):
        one.gradients([batch()], WINDOWS, 10)
        one.update(1e-2)
    one.save().write(tmp_path)
    other.load(tmp_path)
    assert all(map(torch.equal, one.model.parameters(), other.model.parameters()))
    for engine_ in (one, other):
        engine_.gradients([batch()], WINDOWS, 10)
        engine_.update(1e-2)
    assert all(map(torch.equal, one.model.parameters(), other.model.parameters()))
