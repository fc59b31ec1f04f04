"""Filters against transformers' processors; draws against the distribution they are drawn from."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from hybridkit.inference.sampling import Sampling, TokenSampler
from hybridkit.system.errors import UserError


def logits(rows: int = 5, vocab: int = 97, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(rows, vocab, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def draws(sampling: Sampling, given: Tensor, count: int) -> Tensor:
    """(B, count) tokens, each drawn from the same logits."""
    sampler = TokenSampler(sampling, len(given))
    return torch.stack([sampler(given) for _ in range(count)], dim=1)


@pytest.mark.parametrize("temperature", [0.3, 1.5])
@pytest.mark.parametrize("top_k", [None, 7, 1000])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.7, 1.0])
@pytest.mark.parametrize("min_p", [None, 0.02, 1.0])
def test_filters_agree_with_transformers(
    temperature: float, top_k: int | None, top_p: float | None, min_p: float | None
) -> None:
    theirs = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    theirs += [TopKLogitsWarper(top_k)] if top_k else []
    theirs += [TopPLogitsWarper(top_p)] if top_p else []
    theirs += [MinPLogitsWarper(min_p)] if min_p else []
    given = logits()
    ours = Sampling(temperature, top_k, top_p, min_p).filter(given)
    wanted = theirs(torch.zeros(5, 1, dtype=torch.int64), given)
    torch.testing.assert_close(ours, wanted - wanted.amax(dim=-1, keepdim=True))


@pytest.mark.parametrize("temperature", [5e-324, 1e-308, 1e-30, 1e300])
def test_the_likeliest_stays_finite_at_any_temperature(temperature: float) -> None:
    given = logits()
    for filters in ({}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1}):
        drawn = TokenSampler(Sampling(temperature, **filters), 5)(given)
        assert temperature > 1 or torch.equal(drawn, given.argmax(dim=-1))
        assert torch.isfinite(Sampling(temperature, **filters).filter(given).softmax(dim=-1)).all()


@pytest.mark.parametrize(
    "wrong",
    [{"seed": 1.5}, {"seed": None}, {"top_k": 2.5}, {"top_k": "3"}, {"temperature": "a"}, {"temperature": None},
     {"top_p": "a"}, {"min_p": [1]}],
    ids=str,
)  # fmt: skip
def test_what_is_no_number_is_named(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(UserError, match=f"{name.replace('_', '-')} .*: should be a "):
        Sampling(**wrong)


def test_temperature_zero_is_greedy_whatever_the_filters() -> None:
    given = logits()
    for sampling in (Sampling(0), Sampling(0, top_k=3, top_p=0.5, min_p=0.1, seed=9)):
        assert torch.equal(TokenSampler(sampling, 5)(given), given.argmax(dim=-1))


def test_draws_follow_the_probabilities() -> None:
    given, count = logits(rows=1, vocab=6, scale=1.0), 5_000
    expected = Sampling(temperature=0.7, top_k=4).filter(given).softmax(dim=-1)[0]
    shares = draws(Sampling(temperature=0.7, top_k=4), given, count)[0].bincount(minlength=6) / count
    assert shares[expected == 0].sum() == 0
    assert ((shares - expected).abs() < 5 * (expected * (1 - expected) / count).sqrt() + 1e-12).all()


def test_a_row_draws_what_it_draws_alone_with_its_own_seed() -> None:
    given = logits(rows=4)
    batch = draws(Sampling(seed=10), given, 30)
    for row in range(4):
        assert torch.equal(draws(Sampling(seed=10 + row), given[row : row + 1], 30)[0], batch[row])
    assert not torch.equal(*draws(Sampling(seed=10), given[:1].expand(2, -1), 30))


def test_draws_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    draws(Sampling(), logits(), 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_token_without_probability_is_never_drawn() -> None:
    given = torch.full((1, 9), -torch.inf)
    given[0, [2, 5]] = torch.tensor([0.0, -20.0])
    assert set(draws(Sampling(), given, 200)[0].tolist()) <= {2, 5}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("temperature", value) for value in (-0.1, float("nan"), float("inf"))],
        *[("top_k", value) for value in (0, -3)],
        *[(field, value) for field in ("top_p", "min_p") for value in (0.0, -0.5, 1.0001, float("nan"))],
        *[("seed", value) for value in (-1, 2**63)],
    ],
)
def test_values_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(UserError, match=field.replace("_", "-")):
        Sampling(**{field: value})  # type: ignore[arg-type]
