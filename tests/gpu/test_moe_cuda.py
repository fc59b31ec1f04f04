"""Experts on CUDA: torch's kernel for groups in bf16 against one product a group in float64, with gradients."""

import pytest
import torch

from hybridkit.block import Dims
from hybridkit_blocks.moe import MixtureOfExperts
from hybridkit_blocks.ops.grouped import grouped_product

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

HALF = 2.0**-9  # bf16 rounds a value by so much of it at most


def test_groups_in_one_kernel_equal_a_product_each() -> None:
    counts = torch.tensor([300, 0, 17, 195], device="cuda")
    torch.manual_seed(0)
    leaves = [torch.randn(shape, device="cuda").bfloat16() for shape in ((512, 64), (4, 128, 64))]
    direction, found = torch.randn(512, 128, device="cuda"), []
    for dtype in (torch.bfloat16, torch.float64):
        x, weight = (leaf.to(dtype).requires_grad_() for leaf in leaves)
        y = grouped_product(x, weight, counts)
        found.append([y.detach(), *torch.autograd.grad(y, (x, weight), direction.to(dtype))])
    for ours, exact in zip(*found, strict=True):
        assert (ours.double() - exact).norm() <= 4 * HALF * exact.norm()  # direction, sums and result are rounded


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # of torch, at the first call that sets it
def test_a_call_asks_the_device_nothing_and_equals_the_cpu() -> None:
    block, dims = MixtureOfExperts(experts=8, active=2, width=32), Dims(width=64, heads=4, vocab=257)
    layer = block.build(dims)
    x = torch.randn(2, 100, 64)
    right = layer(x)[0].detach()
    layer.cuda()
    torch.testing.assert_close(layer(x.cuda())[0].detach().cpu(), right, rtol=1e-4, atol=1e-4)
    with torch.autocast("cuda", torch.bfloat16):
        there = x.cuda()
        layer(there)  # allocates
        torch.cuda.set_sync_debug_mode("error")
        try:
            y = layer(there)[0]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert (y.detach().cpu() - right).norm() <= 16 * HALF * right.norm()
