"""Initial weights: large ones are drawn in parts, by all threads."""

import pytest
import torch
from torch import Tensor, nn

from hybridkit.block import Linear, normal_
from hybridkit.block.init import PART, uniform_


def drawn(size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(5)
    weight = torch.empty(size, dtype=dtype)
    normal_(weight, std=0.5)
    return weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_large_weight_is_normal_and_has_no_part_twice(dtype: torch.dtype) -> None:
    weight = drawn(2 * PART + 100, dtype).double()
    assert abs(weight.mean()) < 5 * 0.5 / PART**0.5  # here and below: five standard errors of one part
    assert abs(weight.std() / 0.5 - 1) < 5 / PART**0.5
    assert (weight.abs() > 1.5).double().mean() == pytest.approx(0.0027, rel=0.05)  # beyond 3 deviations: 5700 of them
    first, second, last = weight.split(PART)
    assert abs(torch.dot(first, second)) / PART < 5 * 0.25 / PART**0.5
    assert not torch.equal(first[:100], last)


def test_threads_change_nothing_and_seeds_do(monkeypatch: pytest.MonkeyPatch) -> None:
    one = drawn(3 * PART)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    assert torch.equal(drawn(3 * PART), one)
    after = torch.randn(3)
    weight = torch.empty(3 * PART)
    normal_(weight, std=0.5)
    assert not torch.equal(weight, one)
    drawn(3 * PART)
    assert torch.equal(torch.randn(3), after)


def test_small_weights_are_torchs() -> None:
    weight, expected = drawn(PART - 1), torch.empty(PART - 1)
    torch.manual_seed(5)
    nn.init.normal_(expected, std=0.5)
    assert torch.equal(weight, expected)
    torch.manual_seed(5)
    ours = Linear(30, 20)
    torch.manual_seed(5)
    theirs = nn.Linear(30, 20)
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_a_large_layer_is_drawn_from_the_range_of_torchs() -> None:
    for layer in (Linear(1024, 1024), Linear(4096, 256, bias=False)):
        for parameter in layer.parameters():
            size, bound = parameter.detach().abs(), layer.in_features**-0.5
            assert size.max() <= bound
            assert size.mean() == pytest.approx(bound / 2, rel=0.1)  # five standard errors of the 1024 of a bias


def test_a_view_of_a_larger_weight_leaves_the_rest_alone() -> None:
    table = torch.zeros(1024, 2048)
    uniform_(table[:, :1024], 1.0)  # not contiguous
    uniform_(table[:512, 1024:], 1.0)
    assert table[:, :1024].count_nonzero() > 1024 * 1000
    assert not table[512:, 1024:].any()


def test_a_large_layer_can_be_built_where_nothing_is_learned() -> None:
    torch.manual_seed(0)
    learned = Linear(1024, 1100).weight.detach()
    with torch.inference_mode():
        torch.manual_seed(0)
        assert torch.equal(Linear(1024, 1100).weight, learned)
