"""The norm of each head times a gate: its own gradient against autograd's of the plain formula, and bf16."""

import pytest
import torch
from torch import Tensor

from hybridkit_blocks.ops import normed_gate as module
from hybridkit_blocks.ops.activation import SIGMOID, SILU, Activation
from hybridkit_blocks.ops.normed_gate import LAYER_NORM, RMS_NORM, UnweightedNorm, normed_gate

EPS = 1e-3
CASES = [(LAYER_NORM, SIGMOID, 12), (RMS_NORM, SILU, 4)]  # of mLSTM; of delta rules, whose heads share weights


def results(leaves: list[Tensor], norm: UnweightedNorm, activation: Activation) -> list[Tensor]:
    h, z, weight = leaves
    y = normed_gate(h, z[..., 3:15], weight, norm, activation, EPS)
    slope = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y)
    return [y, *torch.autograd.grad(y, leaves, slope.to(y.dtype))]


def inputs(weights: int) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = (2, 7, 3, 4), (2, 7, 20), (weights,)
    return [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]


@pytest.mark.parametrize(("norm", "activation", "weights"), CASES)
def test_slices_give_what_the_plain_formula_gives(
    norm: UnweightedNorm, activation: Activation, weights: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLICE_ELEMENTS", 40)
    leaves = inputs(weights)
    ours = results(leaves, norm, activation)
    monkeypatch.setattr(module, "eager_on_cpu", lambda h: False)
    for mine, right in zip(ours, results(leaves, norm, activation), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("norm", "activation", "weights"), CASES)
def test_in_bf16_only_what_comes_in_and_goes_out_is_rounded(
    norm: UnweightedNorm, activation: Activation, weights: int
) -> None:
    """h in fp32, as the mLSTM's cell gives it, or bf16; the gate bf16: the formula's values on these, rounded once."""
    h, z, weight = (t.detach().bfloat16().float() for t in inputs(weights))
    exact = results([t.requires_grad_() for t in (h, z, weight)], norm, activation)
    for kind in (torch.float32, torch.bfloat16):
        found = results([h.detach().to(kind).requires_grad_(), z.detach().bfloat16().requires_grad_(), weight],
                        norm, activation)  # fmt: skip
        assert [t.dtype for t in found] == [torch.bfloat16, kind, torch.bfloat16, torch.float32]
        for mine, right in zip(found, exact, strict=True):
            # The slope is bf16 as well: rounded by 2^-9, as is the result.
            assert (mine.float() - right).norm() <= 2 * 2.0**-9 * right.norm()
