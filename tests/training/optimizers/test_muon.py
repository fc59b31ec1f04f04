"""Muon: what it makes of a gradient, against torch's own. engines/test_deepspeed.py has it on two ranks."""

import pytest
import torch
from small_batch import PLAN, WINDOWS, batch

from hybridkit.recipe.schema import Train
from hybridkit.training.engines.local.engine import LocalEngine
from hybridkit.training.micro_batches import num_targets
from hybridkit.training.optimizers._muon import MuonAdamW, orthogonalize


@pytest.mark.parametrize("shape", [(8, 8), (5, 20), (20, 5)])
def test_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    made = orthogonalize(matrix)
    # The quintic's fixed band, from Jordan et al.: .68 to 1.13; the smallest values of a square one may lag behind.
    values = torch.linalg.svdvals(made)
    assert values.max() < 1.2 and values.median() > 0.65
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert (u.T @ made @ v.T).diagonal().min() > 0, "the same directions, none turned round"


def test_updates_are_those_of_torch() -> None:
    """torch computes in bf16: three digits of a value are about right."""
    torch.manual_seed(0)
    start, gradients = torch.randn(6, 10), [torch.randn(6, 10) for _ in range(3)]
    own, other = (torch.nn.Parameter(start.clone()) for _ in range(2))
    group = {"params": [own], "weight_decay": 0.1, "hidden": True}
    mine = MuonAdamW([group], 0.02, (0.9, 0.95), 0.9)
    theirs = torch.optim.Muon([other], 0.02, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    for gradient in gradients:
        for weight, optimizer in ((own, mine), (other, theirs)):
            weight.grad = gradient.clone()
            optimizer.step()
    assert (own - start).norm() > 0.05
    assert (own - other).norm() < 0.02 * (own - start).norm()


def test_matrices_of_layers_have_muon_and_all_else_adamw() -> None:
    engine = LocalEngine(PLAN, Train(optimizer="muon", precision="fp64", device="cpu"))
    engine.gradients([batch()], WINDOWS, num_targets(batch()))
    engine.update(1e-2)
    kinds = {name: set(engine._optimizer.state[p]) for name, p in engine.model.named_parameters()}
    assert kinds["layers.0.swa.q.weight"] == {"momentum_buffer"}
    for name in ("embedding.weight", "head.weight", "layers.0.norm.weight", "layers.2.mlstm.igate.weight"):
        assert kinds[name] == {"step", "exp_avg", "exp_avg_sq"}, name
