"""One token on CUDA: the kernels against torch, and whole models that decode with them against one call."""

import pytest
import torch

import hybridkit
from hybridkit_blocks.ops import convolution_step, delta_step, ssd_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CUDA = torch.device("cuda")
STACKS = (
    "[gdn]*2", "[gdn(key_heads=2,gate=sigmoid)]*2", "[kda]*2", "[mamba2]*2", "[conv, rglru]*2", "[mla]*2",
    "[gdn | swa:32]*2",
)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("key", "value", "decays"), [(128, 128, 1), (192, 384, 1), (24, 40, 24), (128, 128, 128)])
def test_the_delta_rules_kernels_pass_their_gate(key: int, value: int, decays: int, dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    assert not delta_step._fault(CUDA, dtype, key, value, decays)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("head", "state"), [(64, 128), (80, 128), (24, 16), (5, 3)])
def test_the_kernels_of_mamba2_pass_their_gate(head: int, state: int, dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    assert not ssd_step._fault(CUDA, dtype, head, state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_convolutions_kernel_passes_its_gate(dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    assert not convolution_step._fault(CUDA, dtype)


@pytest.mark.parametrize("text", STACKS)
@torch.no_grad()
def test_models_decode_what_one_call_gives(text: str) -> None:
    """In fp32; 5e-3 of logits near 1 is room for TF32 in some kernels. The graph must leave no state behind."""
    torch.manual_seed(0)
    model = hybridkit.build(text, width=128, heads=4, vocab=257).to(CUDA)
    ids = torch.randint(257, (2, 40), device=CUDA)
    made = torch.stack(list(model.generate(model.prefill(ids), max_tokens=64, temperature=0)), 1)
    whole, _ = model(torch.cat([ids, made], 1))
    best = whole[:, 39:-1].float()
    picked = best.gather(2, made[..., None])[..., 0]
    assert bool((best.amax(-1) - picked < 5e-3).all())
