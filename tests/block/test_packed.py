"""Weights laid out for decoding: the same products, in every layout and type, for any number of rows."""

import itertools

import pytest
import torch
from torch import nn

from hybridkit.block.packed import Unit, normed_parts, normed_product, product, residual, side_by_side

SHAPES = [(24, 40), (40, 24), (600, 500), (512, 300)]  # the last are large enough for panels, whole and not, and oneDNN


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
@pytest.mark.parametrize("threads", [1, 2])
@torch.inference_mode()
def test_every_layout_multiplies_alike(
    threads: int, outputs: int, inputs: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    weight = torch.randn(outputs, inputs, dtype=torch.float64).to(dtype)
    both = 2 if dtype == torch.float64 else 1  # there what it is compared with is rounded as well
    close = {"rtol": 0, "atol": 40 * both * inputs**0.5 * torch.finfo(dtype).eps}
    for meant, rows in itertools.product((1, 2, 8, 40), (1, 3, 8)):
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
        made = product(side_by_side(norm, weights), len(x))(Unit(norm)(x)), normed_product(norm, weights, len(x))(x)
        right = norm.double()(x.double()) @ torch.cat(weights).double().t()
        for y in made:
            torch.testing.assert_close(y.double(), right, rtol=0, atol=60 * torch.finfo(dtype).eps)
        norm.to(dtype)


@torch.inference_mode()
def test_weights_of_a_wider_type_are_multiplied_in_it() -> None:
    norm, x = nn.RMSNorm(24, eps=1e-6, dtype=torch.bfloat16), torch.randn(5, 24).bfloat16()
    narrow, gates = torch.randn(8, 24).bfloat16(), torch.randn(4, 24)
    y, h = normed_product(norm, [narrow, gates, narrow], 5)(x), Unit(norm)(x).double()
    for part, place in zip(normed_parts(norm, [narrow, gates, narrow], 5)(x), ((0, 8), (8, 12), (12, 20)), strict=True):
        assert torch.equal(part.float(), y[:, slice(*place)])
    right = torch.cat([narrow.double(), gates.double(), narrow.double()]) @ h.t() * 24**0.5
    assert y.dtype == torch.float32
    torch.testing.assert_close(y[:, 8:12].double(), right.t()[:, 8:12], rtol=0, atol=1e-5)  # some roundings in fp32
    torch.testing.assert_close(y.double(), right.t(), rtol=0, atol=0.2)  # weights and sums near 10 in bf16
