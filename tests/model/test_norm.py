"""RMSNorm's own backward pass gives what torch's differentiation of the plain operations gives."""

import pytest
import torch
from torch import Tensor, nn

from hybridkit.model.norm import RMSNorm

WIDTH = 48


def pair(dtype: torch.dtype) -> tuple[RMSNorm, nn.RMSNorm]:
    """Ours and torch's on the same weights."""
    torch.manual_seed(0)
    ours, theirs = (kind(WIDTH, eps=1e-6, dtype=dtype) for kind in (RMSNorm, nn.RMSNorm))
    nn.init.normal_(ours.weight, mean=1)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def results(norm: nn.RMSNorm, x: Tensor, slope: Tensor) -> list[Tensor]:
    """The output, and the gradients of input and weight."""
    y = norm(x)
    return [y, *torch.autograd.grad(y, [x, norm.weight], slope)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("shape", [(3, 7, WIDTH), (1, 1, WIDTH), (5, WIDTH)], ids=str)
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e3])  # at the smallest, eps counts
def test_output_and_gradients(dtype: torch.dtype, tolerance: float, shape: tuple[int, ...], size: float) -> None:
    ours, theirs = pair(dtype)
    x = (size * torch.randn(shape, dtype=dtype)).requires_grad_()
    slope = torch.randn(shape, dtype=dtype)
    for mine, right in zip(results(ours, x, slope), results(theirs, x, slope), strict=True):
        assert (mine - right).abs().max() <= tolerance * right.abs().max()


def test_memory_that_does_not_lie_in_order() -> None:
    ours, theirs = pair(torch.float64)
    x = torch.randn(WIDTH, 5, 3, dtype=torch.float64).permute(2, 1, 0).requires_grad_()
    slope = torch.ones((), dtype=torch.float64).expand(x.shape)
    for mine, right in zip(results(ours, x, slope), results(theirs, x, slope), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-12, atol=1e-12)


def test_a_row_of_zeros_has_finite_gradients() -> None:
    ours, _ = pair(torch.float32)
    x = torch.zeros(2, WIDTH, requires_grad=True)
    assert all(t.isfinite().all() for t in results(ours, x, torch.ones(2, WIDTH)))


def test_without_gradients_it_is_the_same() -> None:
    ours, _ = pair(torch.float32)
    x = torch.randn(2, WIDTH)
    with torch.no_grad():
        without = ours(x)
    assert torch.equal(without, ours(x.requires_grad_()))


def test_under_autocast_the_result_alone_is_rounded() -> None:
    """To bf16 once, from fp32; so are, in gradients, the slopes that come in, and nothing inside."""
    ours, _ = pair(torch.float32)
    x, slope = torch.randn(5, WIDTH, requires_grad=True), torch.randn(5, WIDTH).bfloat16()
    y, *grads = results(ours, x, slope.float())
    with torch.autocast("cpu", torch.bfloat16):
        found, *own = results(ours, x, slope)
    assert torch.equal(found, y.bfloat16())
    assert all(torch.equal(mine, right) for mine, right in zip(own, grads, strict=True))


def test_of_an_input_in_bf16_it_is_that_of_fp32_rounded_once() -> None:
    """As a norm behind a layer is, under autocast: the layer's output is bf16, the weights are fp32."""
    ours, _ = pair(torch.float32)
    x, slope = torch.randn(5, WIDTH).bfloat16().requires_grad_(), torch.randn(5, WIDTH).bfloat16()
    found, right = results(ours, x, slope), results(ours, x.detach().float().requires_grad_(), slope.float())
    assert all(torch.equal(mine, other.to(mine.dtype)) for mine, other in zip(found, right, strict=True))
    assert [t.dtype for t in found] == [torch.bfloat16, torch.bfloat16, torch.float32]
