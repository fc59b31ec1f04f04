"""`ffn`: SwiGLU, its default width, its formula."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from hybridkit.block import Dims
from hybridkit_blocks import ffn
from hybridkit_blocks.ffn import FeedForward

DIMS = Dims(width=24, heads=2, vocab=257)


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


def gradients(layer: torch.nn.Module, x: Tensor, *, sliced: bool, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The output, and the gradients of input and weights."""
    monkeypatch.setattr(ffn, "custom_autograd", lambda x, weight: sliced)
    y = layer(x)[0]
    return [y, *torch.autograd.grad(y, [x, *layer.parameters()], torch.linspace(-1, 1, y.numel()).to(y).view_as(y))]


@pytest.mark.parametrize("shape", [(2, 5), (1, 1), (3, 4), (1, 0)], ids=str)
def test_slices_of_tokens_give_what_the_formula_gives(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """float64, so that only the order of sums differs."""
    monkeypatch.setattr(ffn, "SLICE", 4)
    layer = FeedForward(width=40).build(DIMS).double()
    x = torch.randn(*shape, DIMS.width, dtype=torch.float64, requires_grad=True)
    ours, right = (gradients(layer, x, sliced=sliced, monkeypatch=monkeypatch) for sliced in (True, False))
    for mine, theirs in zip(ours, right, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


def test_training_keeps_the_input_and_twice_the_width_between() -> None:
    layer, x, kept = FeedForward(width=40).build(DIMS), torch.randn(2, 5, DIMS.width, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t), lambda _: None):
        layer(x)
    weights = {p.data_ptr() for p in layer.parameters()}
    assert sum(t.numel() for t in kept if t.data_ptr() not in weights) == 2 * 5 * (DIMS.width + 2 * 40)


def test_counters_see_the_products_of_training() -> None:
    layer, x = FeedForward(width=40).build(DIMS), torch.randn(2, 5, DIMS.width, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        layer(x)[0].sum().backward()
    assert counter.get_total_flops() == 3 * 2 * FeedForward(width=40).flops(DIMS, 5)
