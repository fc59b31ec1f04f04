"""`sa` and `swa` against a dense reference that writes the mask out.

Everything is float64 unless it says otherwise, so that an error is a mistake: 1e-10 leaves three digits over rounding.
"""

import itertools

import pytest
import torch
from sums import of_attention
from torch import Tensor

from hybridkit.block import Block, Dims
from hybridkit.testing import mask_pairs
from hybridkit_blocks.ops import rope
from hybridkit_blocks.ops.attend import attend, kernel
from hybridkit_blocks.ops.cpu.banded import banded
from hybridkit_blocks.ops.rope import Rope, RopeAngles, rotate
from hybridkit_blocks.sa import SelfAttention
from hybridkit_blocks.swa import SlidingWindowAttention
from hybridkit_blocks.windows.fixed import Fixed

DIMS = Dims(width=16, heads=4, vocab=257)
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def dense(q: Tensor, k: Tensor, v: Tensor, window: int | None, documents: Tensor | None) -> Tensor:
    """Attention as the formula reads, with keys repeated and a full mask: (B, T, H, E)."""
    (_, tokens, heads, head), keys = q.shape, k.shape[1]
    k, v = (x.repeat_interleave(heads // x.shape[2], 2) for x in (k, v))
    age = torch.arange(keys - tokens, keys)[:, None] - torch.arange(keys)
    seen = (age >= 0) & (age < (window or keys))
    if documents is not None:
        seen = seen & (documents[:, keys - tokens :, None] == documents[:, None, :])[:, None]
    scores = torch.einsum("bthe,bshe->bhts", q, k) / head**0.5
    p = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.einsum("bhts,bshe->bthe", p, v)


def inputs(batch: int, tokens: int, past: int, heads: int, kv_heads: int, head: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    shapes = ((batch, tokens, heads, head), *[(batch, past + tokens, kv_heads, head)] * 2)
    return [torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes]


def packed(batch: int, keys: int) -> Tensor:
    return (torch.rand(batch, keys, generator=torch.Generator().manual_seed(3)) < 0.1).cumsum(1)


def same_with_gradients(window: int | None, documents: Tensor | None, *leaves: Tensor) -> None:
    ours, right = attend(*leaves, window, documents), dense(*leaves, window, documents)
    torch.testing.assert_close(ours, right, **CLOSE)
    direction = torch.randn_like(right)
    for ours_grad, right_grad in zip(
        torch.autograd.grad(ours, leaves, direction), torch.autograd.grad(right, leaves, direction), strict=True
    ):
        torch.testing.assert_close(ours_grad, right_grad, **CLOSE)


@pytest.mark.parametrize("tokens", [1, 5, 33])
def test_every_window_up_to_twice_the_length(tokens: int) -> None:
    leaves = inputs(1, tokens, 0, 2, 2)
    for window in [*range(1, 2 * tokens + 1), None]:
        same_with_gradients(window, None, *leaves)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heads", "kv_heads", "past"), [(4, 2, 0), (4, 2, 1), (4, 2, 40), (4, 2, 150), (4, 4, 40), (6, 1, 40)]
)
def test_documents_past_and_grouped_heads(heads: int, kv_heads: int, past: int) -> None:
    for tokens, window in itertools.product((1, 70, 200), (1, 2, 32, 100, None)):
        leaves = inputs(2, tokens, past, heads, kv_heads)
        for documents in (None, packed(2, past + tokens)):
            same_with_gradients(window, documents, *leaves)


@pytest.mark.slow
def test_gradients_by_finite_differences() -> None:
    leaves = inputs(2, 34, 5, 2, 1, head=2)
    for window, documents in ((7, None), (None, packed(2, 39))):
        assert torch.autograd.gradcheck(lambda *x, w=window, d=documents: banded(*x, w, d), leaves, fast_mode=True)


@pytest.mark.parametrize("tokens", [*range(1, 10), 33, 64, 200])
def test_exact_flops_count_mask_pairs(tokens: int) -> None:
    linear = 2 * tokens * 4 * DIMS.width**2
    for window in range(1, min(tokens, 64) + 3):
        swa = SlidingWindowAttention(window=Fixed(window=window))
        assert swa.flops(DIMS, tokens) - linear == 4 * DIMS.width * mask_pairs(tokens, window)
        assert swa.flops(DIMS, tokens, count="paper") - linear == 4 * DIMS.width * min(window, tokens) * tokens
    assert SelfAttention().flops(DIMS, tokens) - linear == 4 * DIMS.width * mask_pairs(tokens, None)
    assert SelfAttention().flops(DIMS, tokens, count="paper") - linear == 4 * DIMS.width * tokens**2


def test_grouped_heads_shrink_only_the_projections() -> None:
    grouped, full = SelfAttention(kv_heads=1), SelfAttention()
    assert full.flops(DIMS, 50) - grouped.flops(DIMS, 50) == 2 * 50 * 2 * DIMS.width * 3 * DIMS.width // 4


def test_a_window_may_be_a_tensor() -> None:
    layer = SlidingWindowAttention(window=Fixed(window=64)).build(DIMS).double()
    x = torch.randn(2, 90, DIMS.width, dtype=torch.float64)
    for window in (1, 5, 64):
        y, state = layer(x, window=torch.tensor(window))
        torch.testing.assert_close(y, layer(x, window=window)[0], **CLOSE)
        again, _ = layer(x, state, window=torch.tensor(window))
        torch.testing.assert_close(again, layer(torch.cat([x, x], 1), window=window)[0][:, 90:], **CLOSE)


def test_rotation_depends_on_distance_alone_even_far_out() -> None:
    q, k = torch.randn(2, 1, 6, 3, 16, dtype=torch.float64).unbind()
    near, far = torch.arange(6), torch.arange(6) + 10**7
    turn = {at: Rope(16, 1e4).angles(at, torch.float64) for at in (near, far)}
    scores = [torch.einsum("bthe,bshe->bhts", rotate(q, turn[at]), rotate(k, turn[at])) for at in (near, far)]
    torch.testing.assert_close(*scores, rtol=0, atol=1e-7)  # 10^7 in float64 leaves nine digits of an angle
    single = rotate(q.float(), Rope(16, 1e4).angles(far, torch.float32))
    torch.testing.assert_close(single.double(), rotate(q, turn[far]), rtol=0, atol=1e-6)
    assert torch.autograd.gradcheck(lambda x: rotate(x, turn[far]), (q.requires_grad_(),))


@pytest.mark.parametrize("block", [SelfAttention(), SlidingWindowAttention(window=Fixed(window=20))], ids=str)
def test_lower_precisions(block: Block) -> None:
    layer, x = block.build(DIMS), torch.randn(2, 70, DIMS.width)
    right, _ = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = layer(x)
        later, _ = layer(x[:, :1], state)
    low, low_state = layer.bfloat16()(x.bfloat16())
    assert low.dtype == low_state.k.dtype == state.v.dtype == torch.bfloat16
    assert y.dtype == later.dtype == torch.float32, "an output has its input's type, under autocast too"
    scale = right.abs().max()  # bf16 keeps 8 bits; projections, rotation and products round it some times each
    for other in (y, low):
        torch.testing.assert_close(other.float(), right, rtol=0, atol=0.03 * scale.item())


@pytest.mark.parametrize("window", [5, 40])
def test_bands_in_bf16_are_those_of_fp32_rounded_once(window: int) -> None:
    """Blocks of queries are cast where they are used; outputs are rounded by 2^-9, and read so in backward.

    A gradient is rounded, and computed from an output that is: two roundings (1.3 were measured).
    """
    low = [t.detach().bfloat16().requires_grad_() for t in inputs(2, 70, 3, 4, 2)]
    exact = [t.detach().float().requires_grad_() for t in low]
    kept, slope = list[Tensor](), torch.randn(2, 70, 4, 8).bfloat16()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = banded(*low, window, packed(2, 73))
    right = banded(*exact, window, packed(2, 73))
    assert torch.equal(y, right.bfloat16())
    assert not [t for t in kept if t.dtype == torch.float32 and t.numel() > 2 * 70 * 4], "only the norms are fp32"
    grads = torch.autograd.grad(y, low, slope), torch.autograd.grad(right, exact, slope.float())
    for mine, other in zip(*grads, strict=True):
        assert (mine.float() - other).norm() <= 2 * 2.0**-9 * other.norm()


def test_a_rotation_in_bf16_is_that_of_fp32_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rope, "SLICE_ELEMENTS", 100)
    x, angles = torch.randn(2, 7, 3, 16).bfloat16().requires_grad_(), Rope(8, 1e4).angles(torch.arange(7), torch.float)
    y, right = rotate(x, angles), rotate(x.detach().float(), angles)
    assert torch.equal(y, right.bfloat16()) and y.transpose(1, 2).is_contiguous()
    (grad,) = torch.autograd.grad(y, x, y.detach())
    assert torch.equal(grad, rotate(y.detach().float(), RopeAngles(angles.cos, -angles.sin)).bfloat16())


def test_scores_far_from_zero_stay_finite() -> None:
    q, k, v = (x.float() * 100 for x in inputs(1, 40, 0, 2, 2))
    torch.testing.assert_close(attend(q, k, v, 9, None), dense(q, k, v, 9, None), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (SelfAttention(heads=3), "3 heads do not divide the width 16"),
        (SelfAttention(kv_heads=3), "kv_heads=3 does not divide 4 heads"),
        (SelfAttention(head=5), "choose head=6"),
    ],
)
def test_heads_that_do_not_fit_are_refused(block: Block, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        block.build(DIMS)


def test_windows_that_make_no_sense_are_refused() -> None:
    x = torch.randn(1, 4, DIMS.width)
    with pytest.raises(ValueError, match="takes no window"):
        SelfAttention().build(DIMS)(x, window=4)
    with pytest.raises(ValueError, match="at least 1"):
        SlidingWindowAttention(window=Fixed(window=4)).build(DIMS)(x, window=0)


def test_builds_without_memory() -> None:
    with torch.device("meta"):
        layer = SelfAttention(kv_heads=2).build(Dims(1 << 14, 64, 2))
    assert all(parameter.is_meta for parameter in layer.parameters())
    assert layer.k.weight.shape == (512, 1 << 14)


def test_kernels_have_reasons() -> None:
    assert kernel("cpu")[0] == "banded" and kernel("cuda")[0] in ("flex", "flash-attn")
    assert SelfAttention().kernel("cpu") == kernel("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("window", [1, 2, 30, None])
def test_lower_precisions_are_right_to_what_was_summed(window: int | None, dtype: torch.dtype) -> None:
    """The bound of tests/gpu, which a gradient of 0 keeps too: with a window of 1 those of q and k are."""
    leaves = [x.detach().to(dtype).requires_grad_() for x in inputs(2, 90, 7, 4, 2)]
    wide = [x.detach().double().requires_grad_() for x in leaves]
    documents = packed(2, 97)
    ours, right = attend(*leaves, window, documents), dense(*wide, window, documents)
    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    sums = of_attention(*wide, window, documents, direction)
    mine = (ours, *torch.autograd.grad(ours, leaves, direction))
    exact = (right, *torch.autograd.grad(right, wide, direction.double()))
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for number, reference, summed in zip(mine, exact, sums, strict=True):
        assert ((number - reference).abs() <= tolerance * summed).all()
        assert (reference.abs() <= summed * (1 + 1e-12)).all(), "a sum is at most that of its absolute terms"
