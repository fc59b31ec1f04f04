"""Padded products: values and gradients are those of the weights alone, for every kind of block, head and loss."""

from collections.abc import Callable

import pytest
import torch
from project import ROOT
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hybridkit.block import Dims, Linear, linear, padded_width, padding
from hybridkit.cost.flops import head_flops
from hybridkit.model.config import ModelConfig
from hybridkit.model.loss import linear_cross_entropy
from hybridkit.model.plan import compile_pattern
from hybridkit.registry.registry import REGISTRY

DIMS = Dims(width=126, heads=3, vocab=253)  # 63, 126 and 253 are padded, to 64, 128 and 256
WRITTEN = {"moe": "moe(4,2,125)", "swa": "swa:16", "ffn": "ffn(width=125)"}
UNPADDED = {"moe"}  # its groups: docs/decisions/13-grouped-products.md
KINDS = sorted(path.stem for path in (ROOT / "blocks").glob("[!_]*.py"))


def test_a_width_is_filled_up_to_the_largest_multiple_that_adds_little() -> None:
    assert [padded_width(n) for n in (5461, 2048, 50257, 257, 126, 125, 7, 1)] == [
        5504, 2048, 50304, 272, 128, 128, 7, 1,
    ]  # fmt: skip


def both(run: Callable[[], Tensor], leaves: list[Tensor], pads: bool = True) -> tuple[list[Tensor], list[Tensor]]:
    """The result and the gradients of the leaves, with padding and without; what `pads` multiplies more with it."""
    found, flops = [], []
    for on in (True, False):
        with padding(on):
            y = run()
            slope = torch.linspace(-1, 1, y.numel()).to(y).view_as(y)
            found.append([y, *torch.autograd.grad(y, leaves, slope)])
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                run()
        flops.append(counter.get_total_flops())
    assert (flops[0] > flops[1]) if pads else (flops[0] == flops[1])
    return found[0], found[1]


@pytest.mark.parametrize("kind", KINDS)
def test_every_block_computes_the_same(kind: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(DIMS.width, DIMS.heads, DIMS.vocab, ffn=None)
    layer = compile_pattern(WRITTEN.get(kind, kind), config, registry=REGISTRY).entries[0].block.build(DIMS).double()
    for weight in layer.parameters():  # fresh weights of some kinds leave gates shut
        nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    x = torch.randn(2, 9, DIMS.width, dtype=torch.float64, requires_grad=True)
    padded, plain = both(lambda: layer(x)[0], [x, *layer.parameters()], kind not in UNPADDED)
    torch.testing.assert_close(padded, plain, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cap", [None, 3.0])
def test_so_do_the_loss_and_the_head(cap: float | None) -> None:
    torch.manual_seed(0)
    x, weight = (torch.randn(n, 64, dtype=torch.float64, requires_grad=True) for n in (40, DIMS.vocab))
    targets = torch.randint(DIMS.vocab, (40,))
    for run in (lambda: linear_cross_entropy(x, weight, targets, cap), lambda: linear(x, weight)):
        padded, plain = both(run, [x, weight])
        torch.testing.assert_close(padded, plain, rtol=1e-12, atol=1e-12)
    plan = compile_pattern("sa", ModelConfig(64, 2, DIMS.vocab))
    with padding(True), FlopCounterMode(display=False) as counter:
        linear(x, weight)
    assert counter.get_total_flops() == 40 * head_flops(plan, "hardware") > 40 * head_flops(plan)


def test_a_bias_is_padded_too_and_autocast_keeps_its_type() -> None:
    torch.manual_seed(0)
    layer = Linear(126, 61)
    x = torch.randn(4, 126)
    with padding(True):
        torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16


def test_few_tokens_are_not_padded_since_the_copy_would_cost_more() -> None:
    layer = Linear(128, 253, bias=False)
    for tokens, outputs in ((1, 253), (300, 256)):
        with FlopCounterMode(display=False) as counter:
            layer(torch.randn(tokens, 128))
        assert counter.get_total_flops() == 2 * tokens * 128 * outputs
