"""The delta rule on CUDA: whichever kernel is chosen, with documents and a carried state."""

import pytest
import torch

from hybridkit.block import Block, Dims
from hybridkit_blocks.gdn import Gdn
from hybridkit_blocks.kda import Kda
from hybridkit_blocks.ops import delta_kernels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CUDA = torch.device("cuda")
DIMS = Dims(width=512, heads=4, vocab=257)


@pytest.mark.parametrize("decays", [1, 64], ids=["gdn", "kda"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiled_kernel_passes_its_gate(dtype: torch.dtype, decays: int) -> None:
    pytest.importorskip("fla")
    assert not delta_kernels._fault("fla", CUDA, dtype, decays, 64, 128)


@pytest.mark.parametrize("block", [Gdn(), Kda()], ids=str)
@pytest.mark.parametrize("tokens", [1, 7, 1000])
def test_training_in_float64_and_bf16_agrees_with_the_cpu(block: Block, tokens: int) -> None:
    torch.manual_seed(0)
    layer, x = block.build(DIMS).double(), torch.randn(2, tokens, 512, dtype=torch.float64)
    starts = torch.rand(2, tokens) < 0.01
    right = layer(x, document_starts=starts)[0]
    there = layer.to(CUDA)(x.to(CUDA), document_starts=starts.to(CUDA))[0]
    torch.testing.assert_close(there.cpu(), right, rtol=1e-9, atol=1e-9)
    layer, x, starts = layer.float(), x.to(CUDA).float(), starts.to(CUDA)
    with torch.autocast("cuda", torch.bfloat16):
        y = layer(x, document_starts=starts)[0]
        y.float().square().sum().backward()
    assert (y.double().cpu() - right).norm() < 0.1 * right.norm()  # a dozen roundings of 2^-8
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
