"""Intervals against their definitions, and by how often they hold what they should."""

from math import comb

import numpy as np
import pytest

from hybridkit.evaluation.confidence import beta_cdf, clustered, exact, mean_score, student

DRAWS = 200  # of a coverage: its standard error at 95 % is 1.5 %


def at_least(right: int, samples: int, share: float) -> float:
    """The probability of so many right answers or more."""
    return sum(comb(samples, n) * share**n * (1 - share) ** (samples - n) for n in range(right, samples + 1))


@pytest.mark.parametrize(("right", "samples"), [(0, 5), (1, 7), (37, 100), (100, 100), (250, 500)])
def test_the_ends_are_where_so_extreme_a_result_has_two_and_a_half_percent(right: int, samples: int) -> None:
    low, high = exact(right / samples, samples)
    assert low == 0 if right == 0 else at_least(right, samples, low) == pytest.approx(0.025, rel=1e-6)
    assert high == 1 if right == samples else 1 - at_least(right + 1, samples, high) == pytest.approx(0.025, rel=1e-6)
    assert mean_score([1.0] * right + [0.0] * (samples - right)) == pytest.approx(
        (100 * right / samples, 100 * low, 100 * high)
    ), "independent answers count as one each"


def test_the_incomplete_beta_function_is_that_of_the_binomial() -> None:
    for right, samples, share in [(1, 4, 0.3), (3, 40, 0.02), (39, 40, 0.97), (300, 1000, 0.31)]:
        tail = at_least(right, samples, share)
        assert beta_cdf(share, right, samples - right + 1) == pytest.approx(tail, rel=1e-9)


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (499, 1.965)]
)
def test_students_t_agrees_with_the_tables(freedom: int, quantile: float) -> None:
    assert student(freedom) == pytest.approx(quantile, abs=6e-4)


def test_estimates_are_percentages_in_order() -> None:
    for scores in ([0.0], [1.0], [0.25], [1.0, 0.0, 1.0], [0.25, 0.5, 1.0, 1.0], [1.0, 0.99], [0.1] * 3):
        found = mean_score(scores)
        assert 0 <= found.low <= found.score <= found.high <= 100
        assert found.score == pytest.approx(100 * sum(scores) / len(scores))


def test_equal_scores_are_not_certain() -> None:
    """No width is 0, and more samples make it smaller."""
    for score in (0.0, 0.25, 0.5, 1.0):
        widths = [found.high - found.low for found in (mean_score([score] * n) for n in (1, 2, 10, 100, 1000))]
        assert widths == sorted(widths, reverse=True) and widths[-1] > 0.1
        rows = [clustered([[score] * 8] * n) for n in (1, 2, 10, 100)]
        assert all(found.high - found.low > 0.1 for found in rows)


def test_answers_that_agree_within_sequences_count_as_one() -> None:
    agree, alone = clustered([[1.0] * 8] * 10 + [[0.0] * 8] * 10), mean_score([1.0] * 10 + [0.0] * 10)
    assert agree == pytest.approx(alone)
    mixed = clustered([[1.0, 0.0] * 4] * 20)
    assert mixed.high - mixed.low < (agree.high - agree.low) / 2


def draws(share: float, agreement: float, rows: int, queries: int) -> np.ndarray:
    """(DRAWS, rows, queries) answers, right with the probability `share`: a query repeats its sequence's answer with a
    probability whose square, the intraclass correlation, is `agreement`."""
    random = np.random.default_rng([rows, queries, round(100 * agreement), round(100 * share)])
    same = random.random((DRAWS, rows, 1)) < share
    own = random.random((DRAWS, rows, queries)) < share
    return np.where(random.random(own.shape) < agreement**0.5, same, own).astype(float)


def coverage(samples: np.ndarray, share: float) -> float:
    """How often the interval holds `share`; samples (DRAWS, rows, queries) with the same totals have the same one."""
    totals = np.sort(samples.sum(axis=2), axis=1)
    kinds, counts = np.unique(totals, axis=0, return_counts=True)
    queries = samples.shape[2]
    found = [clustered([[total / queries] * queries for total in kind]) for kind in kinds.tolist()]
    held = [one.low <= 100 * share <= one.high for one in found]
    return float(np.average(held, weights=counts))


@pytest.mark.parametrize("agreement", [0.0, 0.25, 0.5])
@pytest.mark.parametrize(("rows", "queries"), [(3, 6), (12, 1), (12, 20), (30, 4)])
def test_the_interval_holds_the_truth(agreement: float, rows: int, queries: int) -> None:
    for share in (0.05, 0.6):
        assert coverage(draws(share, agreement, rows, queries), share) >= 0.95 - 2 * 0.015, "two standard errors"


@pytest.mark.parametrize("rows", [2, 5, 20])
def test_the_interval_of_shares_holds_the_truth(rows: int) -> None:
    """Shares of four needles, in samples that are alike and in samples that differ."""
    random = np.random.default_rng(rows)
    for share in (0.05, 0.6):
        for steady in (1.0, 50.0):
            chances = random.beta(steady * share, steady * (1 - share), (DRAWS, rows))
            assert coverage(random.binomial(4, chances)[:, :, None] / 4, share) >= 0.95 - 2 * 0.015
