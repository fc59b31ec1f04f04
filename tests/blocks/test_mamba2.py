"""The Mamba-2 block: its laws, and the recurrence written from the equations, in float64."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from laws import both_precisions, every_bf16_law, every_law, random_layer
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hybridkit import testing
from hybridkit.block import Block, Dims
from hybridkit_blocks.mamba2 import Mamba2, Mamba2Layer

DIMS = Dims(width=32, heads=4, vocab=257)
PLAIN = Mamba2(state=8)
GROUPED = Mamba2(
    heads=8,
    head=4,
    state=6,
    groups=2,
    conv=3,
    bias=True,
    conv_bias=False,
    dt_min=0.5,
    dt_max=1.5,
    x_scale=0.5,
    dt_scale=2,
)
OVER_ALL = Mamba2(state=4, groups=2, gate_norm="all")
UNNORMED = Mamba2(state=4, groups=4, gate_norm="none")
BLOCKS = {"plain": PLAIN, "grouped": GROUPED, "over all": OVER_ALL, "unnormed": UNNORMED}
LAWFUL = [PLAIN, pytest.param(GROUPED, marks=pytest.mark.slow)]


@every_law
@pytest.mark.parametrize("block", LAWFUL, ids=str)
def test_law(block: Block, law: Callable[[Block, Dims], None]) -> None:
    law(block, DIMS)


@pytest.mark.slow
@both_precisions
@every_bf16_law
def test_law_in_bf16(law: Callable[..., None], precision: testing.Arithmetic) -> None:
    law(PLAIN, DIMS, precision)


def recurrence(layer: Mamba2Layer, u: Tensor, document_starts: Tensor) -> Tensor:
    """The equations of arXiv 2405.21060, a token at a time, each document alone; factors as Falcon-H1's."""
    block, sizes, rows = layer.block, layer.sizes, []
    scales = block.z_scale, block.x_scale, block.b_scale, block.c_scale, block.dt_scale
    for row, marks in zip(u, document_starts, strict=True):
        S, past, outputs = None, [], []
        for token, begins in zip(row, marks, strict=True):
            parts = layer.in_proj(token).split(sizes.sections)
            z, x, b, c, dt = (part * scale for part, scale in zip(parts, scales, strict=True))
            if begins or S is None:
                S, past = u.new_zeros(sizes.heads, sizes.head, sizes.state), []
            past = [*past, torch.cat([x, b, c])][-sizes.taps :]
            taps = layer.conv.weight[:, sizes.taps - len(past) :].T
            mixed = sum(tap * seen for tap, seen in zip(taps, past, strict=True))
            mixed = F.silu(mixed if layer.conv.bias is None else mixed + layer.conv.bias)
            x, b, c = mixed.split(sizes.sections[1:4])
            x, each = x.view(sizes.heads, -1), sizes.heads // sizes.groups
            b, c = (t.view(sizes.groups, -1).repeat_interleave(each, 0) for t in (b, c))
            dt = F.softplus(dt + layer.dt_bias).clamp(block.dt_min, block.dt_max)[:, None]
            S = torch.exp(-layer.A_log.exp()[:, None] * dt)[..., None] * S + (dt * x)[..., None] * b[:, None]
            y = (torch.einsum("hpn,hn->hp", S, c) + layer.D[:, None] * x).flatten() * F.silu(z)
            if block.gate_norm != "none":
                groups = y.view(1 if block.gate_norm == "all" else sizes.groups, -1)
                y = (groups / (groups.square().mean(-1, keepdim=True) + 1e-5).sqrt()).flatten() * layer.norm.weight
            outputs.append(layer.out_proj(y))
        rows.append(torch.stack(outputs))
    return torch.stack(rows)


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS.keys())
def test_the_layer_is_the_recurrence(block: Mamba2) -> None:
    """Outputs and all gradients, over two chunks and documents that begin anywhere."""
    layer, tokens = random_layer(block, DIMS), 75
    u = torch.randn(2, tokens, 32, dtype=torch.float64, requires_grad=True)
    document_starts = torch.rand(2, tokens) < 0.1
    document_starts[0, 0] = document_starts[1, 40] = document_starts[1, 41] = True
    found = []
    for y in (layer(u, document_starts=document_starts)[0], recurrence(layer, u, document_starts)):
        slope = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y)
        found.append([y, *torch.autograd.grad(y, [u, *layer.parameters()], slope)])
    for ours, right in zip(*found, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-10, atol=1e-10)


def test_initial_weights_are_those_of_state_spaces_mamba() -> None:
    torch.manual_seed(0)
    layer = Mamba2(heads=64, head=8).build(Dims(width=256, heads=4, vocab=1, depth=4))
    dt, rate = F.softplus(layer.dt_bias.double()), layer.A_log.double().exp()
    assert 1e-3 - 1e-8 <= dt.min() < 2e-3 and 0.05 < dt.max() <= 0.1 + 1e-6  # of 64 draws
    assert 1 <= rate.min() < 2.5 and 14.5 < rate.max() <= 16
    assert (layer.D == 1).all() and (layer.norm.weight == 1).all()
    for weight, bound in ((layer.in_proj.weight, 256**-0.5), (layer.out_proj.weight, 512**-0.5 / 2)):
        assert 0.99 * bound < weight.abs().max() <= bound


def test_no_gate_of_time_decays() -> None:
    """Weight decay skips what is one-dimensional: A_log, dt_bias and D have to be."""
    layer = PLAIN.build(DIMS)
    assert {weight.dim() for weight in (layer.A_log, layer.dt_bias, layer.D)} == {1}


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (Mamba2(heads=7), r"7 heads do not divide expand \* width \(2 \* 32\)"),
        (Mamba2(groups=3), "3 groups do not divide 4 heads"),
        (Mamba2(dt_min=0.2, dt_max=0.1), r"dt_max=.1 is below dt_min=.2"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(block: Mamba2, said: str) -> None:
    for ask in (block.build, lambda dims: block.flops(dims, 10), lambda dims: block.init_state(dims, 1, 1)):
        with pytest.raises(ValueError, match=said):
            ask(DIMS)


def test_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="mamba2 has no window"):
        PLAIN.build(DIMS)(torch.zeros(1, 2, 32), window=4)


@pytest.mark.parametrize("tokens", [1, 64, 70, 200])
@pytest.mark.parametrize("block", [PLAIN, GROUPED], ids=["plain", "grouped"])
def test_hardware_flops_are_the_products_that_run(block: Mamba2, tokens: int) -> None:
    """Counted on the layer itself; its convolution runs as elementwise operations."""
    layer, sizes = block.build(DIMS), block.sizes(DIMS)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(torch.randn(1, tokens, 32))
    convolution = 2 * sizes.taps * sizes.channels * tokens
    assert counter.get_total_flops() + convolution == block.flops(DIMS, tokens, count="hardware")


def test_fast_decay_leaves_the_gradient_of_the_rest() -> None:
    """In fp32, with heads that forget by a factor of e^-12 a token: what is left between tokens is a millionth."""
    block = Mamba2(heads=2, head=4, state=8)
    layer = random_layer(block, DIMS)
    torch.nn.init.constant_(layer.A_log, 2.5)
    torch.nn.init.constant_(layer.dt_bias, 0.55)
    x, grads = torch.randn(1, 130, 32, dtype=torch.float64), []
    for kind in (torch.float64, torch.float32):
        y = layer.to(kind)(x.to(kind))[0]
        grads.append(torch.autograd.grad(y.square().sum(), layer.A_log)[0].double())
    assert (grads[0] - grads[1]).norm() < 1e-3 * grads[0].norm()
