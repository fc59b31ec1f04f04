"""Intervals against their definitions and printed tables."""

from math import sqrt

import pytest

from hybridkit.evaluate.intervals import estimate, student, wilson


@pytest.mark.parametrize(("right", "samples"), [(0, 5), (1, 7), (37, 100), (100, 100), (250, 500)])
def test_wilson_ends_are_where_the_score_test_turns(right: int, samples: int) -> None:
    for end in wilson(right, samples):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(right / samples - end) == pytest.approx(1.959964 * sqrt(end * (1 - end) / samples), rel=1e-5)


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (499, 1.965)]
)
def test_students_t_agrees_with_the_tables(freedom: int, quantile: float) -> None:
    assert student(freedom) == pytest.approx(quantile, rel=6e-3)  # the expansion is worst at 3 degrees of freedom


def test_estimates_are_percentages_in_order() -> None:
    for scores in ([0.0], [1.0], [0.25], [1.0, 0.0, 1.0], [0.25, 0.5, 1.0, 1.0], [1.0, 0.99]):
        found = estimate(scores)
        assert 0 <= found.low <= found.score <= found.high <= 100
        assert found.score == pytest.approx(100 * sum(scores) / len(scores))
    shares = estimate([0.25, 0.5, 0.75, 0.5])  # t of 3 degrees: 3.182 * .2041 / 2
    assert shares.high - shares.score == pytest.approx(100 * 3.182 * 0.204124 / 2, rel=6e-3)
