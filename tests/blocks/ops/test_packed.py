"""Weights laid out for decoding: the same products, in every layout and type, for any number of rows."""

import itertools

import pytest
import torch
from torch import nn

from hybridkit_blocks.ops.packed import Unit, product, residual, side_by_side

SHAPES = [(24, 40), (40, 24), (600, 500)]  # the last is large enough for oneDNN's layout


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
@torch.inference_mode()
def test_every_layout_multiplies_alike(outputs: int, inputs: int, dtype: torch.dtype) -> None:
    weight = torch.randn(outputs, inputs, dtype=torch.float64).to(dtype)
    both = 2 if dtype == torch.float64 else 1  # there what it is compared with is rounded as well
    close = {"rtol": 0, "atol": 40 * both * inputs**0.5 * torch.finfo(dtype).eps}
    for meant, rows in itertools.product((1, 2, 8), (1, 3, 8)):
        x, h = (torch.randn(rows, n, dtype=torch.float64).to(dtype) for n in (outputs, inputs))
        right = h.double() @ weight.double().t()
        torch.testing.assert_close(product(weight, meant)(h).double(), right, **close)
        torch.testing.assert_close(residual(weight, meant)(x, h).double(), x.double() + right, **close)
        bias = torch.randn(outputs, dtype=torch.float64).to(dtype)
        moved = right + bias.double()
        torch.testing.assert_close(product(weight, meant, bias)(h).double(), moved, **close)
        torch.testing.assert_close(residual(weight, meant, bias)(x, h).double(), x.double() + moved, **close)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_the_norms_weight_moves_into_the_matrix(dtype: torch.dtype) -> None:
    norm = nn.RMSNorm(24, eps=1e-6, dtype=dtype)
    norm.weight.uniform_(0.5, 2)
    weights = [torch.randn(outputs, 24).to(dtype) for outputs in (8, 3)]
    for x in (torch.randn(5, 24).to(dtype), torch.zeros(1, 24, dtype=dtype)):
        y = product(side_by_side(norm, weights), len(x))(Unit(norm)(x)).double()
        right = norm.double()(x.double()) @ torch.cat(weights).double().t()
        torch.testing.assert_close(y, right, rtol=0, atol=60 * torch.finfo(dtype).eps)
        norm.to(dtype)
