"""Layers joined in one product: what each alone gives, in float64 and under autocast; and products in fp32."""

import torch
from torch import Tensor, nn

from hybridkit.block import Linear
from hybridkit_blocks.ops.joined import WideLinear, joined, wide_linear

HALF = 2.0**-9  # bf16 rounds a value by so much of it at most


def layers() -> list[nn.Linear]:
    torch.manual_seed(0)
    return [Linear(12, 8), WideLinear(12, 3), Linear(12, 16, bias=False)]


def gradients(parts: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    slopes = [torch.linspace(-1, 1, part.numel()).to(part).view_as(part) for part in parts]
    return [*parts, *torch.autograd.grad(parts, leaves, slopes)]


def test_one_product_gives_what_each_layer_alone_gives() -> None:
    own = [layer.double() for layer in layers()]
    x = torch.randn(2, 5, 12, dtype=torch.float64, requires_grad=True)
    leaves = [x, *(weight for layer in own for weight in layer.parameters())]
    ours = gradients(joined(x, own, x.dtype), leaves)
    for mine, right in zip(ours, gradients([layer(x) for layer in own], leaves), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-12, atol=1e-13)


def test_in_bf16_the_wide_layer_has_its_weights_and_sums_in_fp32() -> None:
    own, x = layers(), torch.randn(2, 5, 12).bfloat16()
    exact = [layer(x.float()) for layer in own]
    first, wide, last = joined(x, own, torch.bfloat16)
    assert [part.dtype for part in (first, wide, last)] == [torch.bfloat16, torch.float32, torch.bfloat16]
    torch.testing.assert_close(wide, exact[1], rtol=1e-6, atol=1e-6)
    for found, right in ((first, exact[0]), (last, exact[2])):  # weights and results are rounded
        assert (found.float() - right).norm() <= 2 * HALF * right.norm()


def test_a_wide_product_keeps_its_input_as_it_is_and_rounds_its_gradient_once() -> None:
    kept, weight = list[Tensor](), torch.randn(3, 12, requires_grad=True)
    x = torch.randn(1100, 12).bfloat16().requires_grad_()  # two slices
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = wide_linear(x, weight)
    assert sum(t.nbytes for t in kept) == x.nbytes + weight.nbytes
    exact = x.detach().float().requires_grad_()
    right = gradients([exact @ weight.T], [exact, weight])
    for mine, other in zip(gradients([y], [x, weight]), right, strict=True):
        assert (mine.float() - other).norm() <= (HALF if mine.dtype == torch.bfloat16 else 1e-6) * other.norm()
