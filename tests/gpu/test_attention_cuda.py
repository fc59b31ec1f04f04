"""Attention on CUDA against blocks of queries in fp32, with gradients; windows that change without recompiling."""

import itertools

import pytest
import torch
from sums import of_attention
from torch import Tensor

from hybridkit.block import Dims
from hybridkit_blocks.ops import attention_step
from hybridkit_blocks.ops.attend import attend
from hybridkit_blocks.ops.cpu.banded import banded
from hybridkit_blocks.ops.cuda import flex
from hybridkit_blocks.ops.scores import Scores
from hybridkit_blocks.swa import SlidingWindowAttention
from hybridkit_blocks.windows.fixed import Fixed

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

# Error of a number relative to the absolute terms it is a sum of (sums.py): TF32 is off in fp32, bf16 keeps 8 bits.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def inputs(tokens: int, keys: int, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(tokens)
    shapes = ((2, tokens, 8, 64), (2, keys, 2, 64), (2, keys, 2, 64))
    return [torch.randn(shape, device="cuda", dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("tokens", "keys"), [(1024, 1024), (300, 300), (200, 777)])
def test_outputs_and_gradients(tokens: int, keys: int, dtype: torch.dtype) -> None:
    leaves = inputs(tokens, keys, dtype)
    packed = (torch.rand(2, keys, device="cuda") < 0.01).cumsum(1)
    for window, documents in itertools.product((1, 128, 500, torch.tensor(100, device="cuda"), None), (None, packed)):
        ours = attend(*leaves, window, documents)
        wide = [x.detach().double().cpu().requires_grad_() for x in leaves]
        limit, ids = None if window is None else int(window), None if documents is None else documents.cpu()
        right = banded(*wide, limit, ids)
        direction = torch.randn_like(ours)
        sums = of_attention(*wide, limit, ids, direction.cpu())
        pairs = zip(
            (ours, *torch.autograd.grad(ours, leaves, direction)),
            (right, *torch.autograd.grad(right, wide, direction.double().cpu())),
            sums,
            strict=True,
        )
        for mine, reference, summed in pairs:
            assert ((mine.double().cpu() - reference).abs() <= TOLERANCE[dtype] * summed).all()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("tokens", [1, 7, 60, 127])
def test_short_prompts_are_read(tokens: int, dtype: torch.dtype) -> None:
    """FlexAttention's own choice of kernel below 128 queries does not compile in fp32."""
    q, k, v = (x.detach() for x in inputs(tokens, 200, dtype))
    for window in (None, 50):
        right = banded(*(x.double().cpu() for x in (q, k, v)), window, None)
        summed = of_attention(q.cpu(), k.cpu(), v.cpu(), window, None, torch.zeros_like(q).cpu())[0]
        ours = flex.flex(q, k, v, window, None).double().cpu()
        assert ((ours - right).abs() <= TOLERANCE[dtype] * summed).all()


def test_heads_too_narrow_for_the_kernel_are_read() -> None:
    q, k, v = (torch.randn(2, 40, 2, 8, device="cuda", requires_grad=True) for _ in range(3))
    y = attend(q, k, v, 10, None)
    right = banded(*(x.detach().double().cpu() for x in (q, k, v)), 10, None)
    assert ((y.double().cpu() - right).abs() <= 1e-4 * right.abs().max()).all()  # fp32
    y.sum().backward()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("cap", [None, 2.0])
def test_caps_scales_and_sinks_with_their_gradients(cap: float | None, dtype: torch.dtype) -> None:
    """Against blocks of queries in float64, relative to the largest number: sinks and caps have no simple sums."""
    leaves = [*inputs(300, 300, dtype), torch.linspace(-2, 2, 8, device="cuda", dtype=dtype).requires_grad_()]
    wide = [x.detach().double().cpu().requires_grad_() for x in leaves]
    for window, documents in itertools.product((50, None), (None, (torch.rand(2, 300) < 0.01).cumsum(1))):
        given = None if documents is None else documents.cuda()
        ours = attend(*leaves[:3], window, given, Scores(0.2, cap, leaves[3]))
        right = banded(*wide[:3], window, documents, 0.2, cap, wide[3])
        direction = torch.randn_like(ours)
        pairs = zip(
            (ours, *torch.autograd.grad(ours, leaves, direction)),
            (right, *torch.autograd.grad(right, wide, direction.double().cpu())),
            strict=True,
        )
        for mine, reference in pairs:
            error = (mine.double().cpu() - reference).abs().max()
            assert error <= 4 * TOLERANCE[dtype] * reference.abs().max()


def test_a_switch_of_window_compiles_nothing() -> None:
    q, k, v = inputs(512, 512, torch.bfloat16)
    flex.flex(q, k, v, 128, None)
    with torch.compiler.set_stance("fail_on_recompile"):
        for window in (1, 200, 512):
            flex.flex(q, k, v, window, None)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("head", "turning"), [(128, 128), (64, 64), (256, 64), (24, 12), (32, 0)])
def test_the_step_kernels_pass_their_gate(head: int, turning: int, dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    assert not attention_step._fault(torch.device("cuda"), dtype, head, turning)


@torch.no_grad()
def test_steps_in_a_graph_equal_forward() -> None:
    dims = Dims(width=256, heads=4, vocab=257)
    with torch.device("cuda"):
        layer = SlidingWindowAttention(kv_heads=2, window=Fixed(window=40)).build(dims)
    x = torch.randn(2, 120, 256, device="cuda")
    whole, _ = layer(x)
    _, state = layer(x[:, :60])
    state, token = layer.reserve(state, 120), x[:, 60:61].clone()
    kept = [tensor.clone() for tensor in state]
    layer.step(token, state)  # allocates what the recording may not
    for tensor, old in zip(state, kept, strict=True):
        tensor.copy_(old)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, _ = layer.step(token, state)
    for t in range(60, 120):
        token.copy_(x[:, t : t + 1])
        graph.replay()
        torch.testing.assert_close(y[:, 0], whole[:, t], rtol=1e-4, atol=1e-4)
