"""`ffn`: SwiGLU under the laws of all blocks, its default width, its formula."""

import pytest
import torch
from torch.nn import functional as F

from hybridkit.block import Dims
from hybridkit.testing import check_block
from hybridkit_blocks.ffn import FeedForward

DIMS = Dims(width=24, heads=2, vocab=257)


@pytest.mark.parametrize("block", [FeedForward(), FeedForward(width=7)], ids=str)
def test_laws(block: FeedForward) -> None:
    check_block(block, DIMS)


@pytest.mark.parametrize(("width", "inner"), [(24, 64), (25, 128), (48, 128), (256, 704), (2048, 5504), (4096, 10944)])
def test_default_width_is_eight_thirds_rounded_up(width: int, inner: int) -> None:
    assert FeedForward().inner(Dims(width, 4, 257)) == inner


def test_formula_and_cost() -> None:
    block = FeedForward(width=40)
    layer, x = block.build(DIMS).double(), torch.randn(2, 5, DIMS.width, dtype=torch.float64)
    y, state = layer(x, window=3)
    gate, up, down = (module.weight for module in (layer.gate, layer.up, layer.down))
    torch.testing.assert_close(y, (F.silu(x @ gate.T) * (x @ up.T)) @ down.T)
    assert state == () and block.flops(DIMS, 5) == 2 * 5 * sum(p.numel() for p in layer.parameters())
