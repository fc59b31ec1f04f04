"""The gated short convolution against transformers' Lfm2ShortConv on the same weights."""

import pytest
import torch
from torch import nn

from hybridkit.block import Dims
from hybridkit_blocks.conv import Conv

transformers = pytest.importorskip("transformers")

DIMS = Dims(width=16, heads=2, vocab=61)
NAMES = {"input": "in_proj", "conv": "conv", "out": "out_proj"}


def pair(kernel_size: int, bias: bool) -> tuple[nn.Module, nn.Module, object]:
    """Ours and theirs with the same random weights, in float64."""
    from transformers.models.lfm2.modeling_lfm2 import Lfm2ShortConv

    torch.manual_seed(0)
    config = transformers.Lfm2Config(
        hidden_size=16, conv_bias=bias, conv_L_cache=kernel_size, num_hidden_layers=1, layer_types=["conv"]
    )
    theirs = Lfm2ShortConv(config, 0).double()
    ours = Conv(kernel_size=kernel_size, bias=bias).build(DIMS).double()
    with torch.no_grad():
        for mine, other in NAMES.items():
            for name, weight in ours.get_submodule(mine).named_parameters():
                right = theirs.get_submodule(other).get_parameter(name)
                nn.init.normal_(right)
                weight.copy_(right.view_as(weight))
    return ours, theirs, config


@pytest.mark.parametrize(("kernel_size", "bias"), [(3, False), (4, True)])
def test_outputs_and_every_gradient(kernel_size: int, bias: bool) -> None:
    ours, theirs, _ = pair(kernel_size, bias)
    x = torch.randn(2, 9, 16, dtype=torch.float64, requires_grad=True)
    slope, found = torch.randn_like(x), []
    for y, layer in ((ours(x)[0], ours), (theirs(x), theirs)):
        weights = [
            weight
            for name in NAMES
            for weight in layer.get_submodule(NAMES[name] if layer is theirs else name).parameters()
        ]
        found.append([y, *torch.autograd.grad(y, [x, *weights], slope)])
    for mine, right in zip(*found, strict=True):
        torch.testing.assert_close(mine, right.view_as(mine), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_cached_decoding() -> None:
    ours, theirs, config = pair(3, True)
    x, cache = torch.randn(2, 9, 16, dtype=torch.float64), transformers.DynamicCache(config=config)
    right = [theirs(x[:, :5], past_key_values=cache)]
    y, state = ours(x[:, :5])
    mine = [y]
    for t in range(5, 9):
        right.append(theirs(x[:, t : t + 1], past_key_values=cache))
        y, state = ours.step(x[:, t : t + 1], state)
        mine.append(y)
    torch.testing.assert_close(torch.cat(mine, 1), torch.cat(right, 1), rtol=1e-12, atol=1e-12)
