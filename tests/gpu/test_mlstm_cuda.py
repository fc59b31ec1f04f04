"""The mLSTM on CUDA: whichever kernel is chosen, and the step under a CUDA graph."""

import pytest
import torch
from sums import of_mlstm

from hybridkit.block import Dims
from hybridkit_blocks.mlstm import Mlstm
from hybridkit_blocks.ops import mlstm_kernels, mlstm_step
from hybridkit_blocks.ops.mlstm_chunkwise import chunkwise_mlstm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CUDA = torch.device("cuda")
DIMS = Dims(width=512, heads=4, vocab=257)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiled_kernel_passes_its_gate(dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    assert not mlstm_kernels._fault("triton", CUDA, dtype, 64, 128)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("key", "value"), [(128, 256), (256, 512), (32, 64), (24, 40)])
def test_the_step_kernel_passes_its_gate(key: int, value: int, dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    assert not mlstm_step._fault(CUDA, dtype, key, value)


def test_many_tokens_of_the_step_kernel_equal_float64() -> None:
    """In fp32, whose rounding of 2^-24 a token adds to the memory, for 300 tokens."""
    pytest.importorskip("triton")
    torch.manual_seed(0)
    heads, key, value, width = 4, 64, 128, 256
    weights = torch.randn(2 * heads, width) / 16, torch.randn(2 * heads) + 2, torch.randn(heads * value)
    exact = [torch.zeros(2, heads, *shape, dtype=torch.float64) for shape in ((key, value), (key,), (1,))]
    held, own = [t.to(CUDA, torch.float32) for t in exact], [t.to(CUDA) for t in weights]
    for _ in range(300):
        token = torch.randn(2, width), torch.randn(2, 2 * heads * (key + value))
        right = mlstm_step.mlstm_in_torch_(*(t.double() for t in (*token, *weights)), *exact)
        found = mlstm_step.mlstm_in_a_kernel_(*(t.to(CUDA) for t in token), *own, *held)
        torch.testing.assert_close(found.cpu().double(), right, rtol=1e-3, atol=1e-3)
    for ours, reference in zip(held, exact, strict=True):
        assert (ours.cpu().double() - reference).norm() <= 1e-4 * reference.norm()


def test_the_own_form_is_the_same_on_both_devices() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 200, width, dtype=torch.float64) for width in (16, 16, 32))
    i, f = torch.randn(2, 2, 2, 200, dtype=torch.float64)
    document_starts = torch.rand(2, 200) < 0.05
    here, there = (
        chunkwise_mlstm(q, k, v, i, f, None, document_starts),
        chunkwise_mlstm(*(t.to(CUDA) for t in (q, k, v, i, f)), None, document_starts.to(CUDA)),
    )
    torch.testing.assert_close(there[0].cpu(), here[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tokens", [7, 1000])
def test_training_in_bf16_agrees_with_fp32_on_the_cpu(tokens: int) -> None:
    torch.manual_seed(0)
    layer, x = Mlstm().build(DIMS), torch.randn(2, tokens, 512)
    torch.nn.init.constant_(layer.igate.bias, 0)  # -10 leaves h to eps
    document_starts = torch.rand(2, tokens) < 0.01
    right, sizes = of_mlstm(layer, x, document_starts=document_starts)
    layer = layer.to(CUDA)
    with torch.autocast("cuda", torch.bfloat16):
        here, _ = of_mlstm(layer, x.to(CUDA), document_starts=document_starts.to(CUDA))
    for ours, exact, size in zip(here, right, sizes, strict=True):
        assert (ours - exact).norm() < 0.1 * size  # a dozen roundings of 2^-8


def test_the_step_runs_under_a_cuda_graph() -> None:
    torch.manual_seed(0)
    layer, xs = Mlstm().build(DIMS).to(CUDA), torch.randn(9, 2, 1, 512, device=CUDA)
    state, token = Mlstm().init_state(DIMS, 2, 9, device=CUDA), xs[0].clone()
    with torch.no_grad():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            layer.step(token, state)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y, _ = layer.step(token, state)
        for t in state:
            t.zero_()
        outputs = []
        for x in xs:
            token.copy_(x)
            graph.replay()
            outputs.append(y.clone())
        whole = layer(xs.squeeze(2).transpose(0, 1))[0]
    torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=1e-2, atol=1e-3)  # TF32 in the compiled kernel
