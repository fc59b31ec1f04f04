"""The gated norm's own gradient against autograd's of the plain formula, in float64."""

import pytest
import torch

from hybridkit_blocks.ops import gated_norm
from hybridkit_blocks.ops.gated_norm import GatedNorm


@pytest.mark.parametrize("groups", [1, 3])
def test_slices_give_what_the_plain_formula_gives(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gated_norm, "SLICE_ELEMENTS", 40)
    torch.manual_seed(0)
    norm, found = GatedNorm(12, groups).double(), []
    torch.nn.init.normal_(norm.weight)
    y = torch.randn(2, 7, 12, dtype=torch.float64, requires_grad=True)
    z = torch.randn(2, 7, 20, dtype=torch.float64, requires_grad=True)
    for sliced in (True, False):
        monkeypatch.setattr(gated_norm, "eager_on_cpu", lambda y, sliced=sliced: sliced)
        out = norm(y, z[..., :12])
        slope = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
        found.append([out, *torch.autograd.grad(out, [y, z, norm.weight], slope)])
    for ours, right in zip(*found, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("groups", [None, 1, 3])
@torch.no_grad()
def test_one_token_is_the_same(groups: int | None) -> None:
    norm = GatedNorm(12, groups).double()
    if norm.weight is not None:
        torch.nn.init.normal_(norm.weight)
    y, z = torch.randn(2, 5, 12, dtype=torch.float64).unbind()
    torch.testing.assert_close(norm.stepper()(y, z) * norm.after, norm(y, z), rtol=1e-12, atol=1e-13)
