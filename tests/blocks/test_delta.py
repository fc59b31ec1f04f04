"""The delta-rule blocks, `gdn` and `kda`: sizes, starts, precision, and what they refuse. Laws are in test_laws.py."""

import math

import pytest
import torch
import torch.nn.functional as F

from hybridkit import testing
from hybridkit.block import Block, Dims
from hybridkit_blocks.gdn import Gdn
from hybridkit_blocks.kda import Kda
from hybridkit_blocks.ops.delta_token import log_decay

DIMS = Dims(width=32, heads=4, vocab=257)
BOTH = [Gdn(), Kda()]


def parameters(block: Block, dims: Dims) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in block.build(dims).parameters())


def test_sizes_follow_from_the_width_as_in_the_references() -> None:
    olmo, kimi = Dims(3840, 30, 1), Dims(2304, 32, 1)
    assert Gdn().sizes(olmo) == (30, 30, 96, 192)
    assert Kda().sizes(Dims(2048, 16, 1)) == (16, 16, 128, 128)
    assert Gdn(heads=32, key_heads=16, head=128, value=128).sizes(DIMS) == (32, 16, 128, 128)
    # Kimi-Linear: q, k, v and out of 4096 x 2304, two bottlenecks of 128, b, 3 convolutions, dt_bias, A_log and norm
    assert (
        parameters(Kda(heads=32, head=128), kimi)
        == 4 * 4096 * 2304 + 2 * 128 * (2304 + 4096) + 32 * 2304 + (12 + 1) * 4096 + 32 + 128
    )


@pytest.mark.parametrize("block", BOTH, ids=str)
@pytest.mark.parametrize("width", [1, 5, 33])
def test_every_width_builds(block: Block, width: int) -> None:
    dims = Dims(width, 3, 257)
    y, _ = block.build(dims)(torch.randn(1, 4, width))
    assert y.shape == (1, 4, width) and y.isfinite().all()


def test_decay_begins_as_in_the_references() -> None:
    torch.manual_seed(0)
    fla, qwen = (Gdn(heads=2000, head=1, value=1, start=start).build(DIMS) for start in ("fla", "qwen"))
    assert 0 < fla.A_log.exp().min() < 0.1 < 15.9 < fla.A_log.exp().max() <= 16.001
    steps = F.softplus(fla.dt_bias)
    assert 0.00099 < steps.min() < 0.0011 < 0.09 < steps.max() < 0.1001
    assert steps.log().mean().item() == pytest.approx(math.log(0.01), abs=0.15)  # of 2000 draws: 5 sigma
    assert (qwen.dt_bias == 1).all() and qwen.A_log.exp().min() > 0.0099
    kda, safe = Kda(heads=500, head=1).build(DIMS), Kda(lower_bound=-5.0).build(DIMS)
    assert kda.A_log.exp().min() > 1 and not safe.A_log.any()


@pytest.mark.parametrize("block", BOTH, ids=str)
def test_rates_have_no_weight_decay(block: Block) -> None:
    """The optimizer leaves one-dimensional weights out."""
    layer = block.build(DIMS)
    assert layer.A_log.dim() == layer.dt_bias.dim() == layer.norm.dim() == 1


def test_the_safe_gate_bounds_the_decay() -> None:
    layer = Kda(lower_bound=-5.0).build(DIMS)
    g = log_decay(layer.f_b(100 * torch.randn(3, 8)), layer.decays)
    assert g.min() >= -5 and g.max() <= 0 and g.min() < -4.9


@pytest.mark.parametrize("block", BOTH, ids=str)
@pytest.mark.parametrize("precision", [testing.BF16, testing.AUTOCAST], ids=lambda precision: precision.name)
def test_rounding(block: Block, precision: testing.Arithmetic) -> None:
    testing.check_rounding(block, DIMS, precision)


@pytest.mark.slow
@pytest.mark.parametrize("precision", [testing.BF16, testing.AUTOCAST], ids=lambda precision: precision.name)
def test_a_call_and_steps_agree_to_rounding(precision: testing.Arithmetic) -> None:
    """Under autocast they did not while a call rounded q and k before it divided them by their length."""
    testing.check_step(Kda(low_rank=False), DIMS, precision)


@pytest.mark.parametrize("block", BOTH, ids=str)
def test_the_memory_is_fp32_where_the_model_is_bf16(block: Block) -> None:
    y, state = block.build(DIMS).bfloat16()(torch.randn(2, 20, 32, dtype=torch.bfloat16))
    assert (y.dtype, state.S.dtype, state.inputs.dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)


@pytest.mark.parametrize("block", BOTH, ids=str)
def test_a_window_is_refused(block: Block) -> None:
    with pytest.raises(ValueError, match=f"{block.name()} has no window"):
        block.build(DIMS)(torch.zeros(1, 2, 32), window=4)


@pytest.mark.parametrize("kind", [Gdn, Kda])
def test_key_heads_must_divide_the_heads(kind: type[Gdn] | type[Kda]) -> None:
    block = kind(heads=4, key_heads=3)
    for ask in (block.build, lambda dims: block.flops(dims, 10)):
        with pytest.raises(ValueError, match="key_heads=3 does not divide 4 heads"):
            ask(DIMS)
