"""Curves for the eye: where a line lies, and what ends it."""

import math
import random
from statistics import mean

import pytest

from hybridkit.report.smooth import SMOOTHED_SHARE, smooth


@pytest.mark.parametrize("steps", [1, 2, 7, 60, 1000])
def test_a_constant_stays_and_the_length_too(steps: int) -> None:
    assert smooth([3.0] * steps) == pytest.approx([3.0] * steps)


@pytest.mark.parametrize("steps", [20, 60, 300, 5000])
def test_a_linear_fall_is_late_by_no_more_than_the_stated_share(steps: int) -> None:
    fall = [4 - step / steps for step in range(steps)]
    late = [(shown - true) * steps for shown, true in zip(smooth(fall), fall, strict=True)]  # in steps
    half = round(SMOOTHED_SHARE / 2 * steps)
    assert max(map(abs, late[half : steps - half])) < 1e-6
    assert max(map(abs, late)) <= SMOOTHED_SHARE / 4 * steps + 0.5  # half a step: a window is a whole number of them


def test_a_short_run_ends_where_its_last_losses_are() -> None:
    """60 steps, flat and then falling: the fixed average of .95 ended .3 above."""
    losses = [5.5] * 20 + [5.5 - 2.7 * step / 40 for step in range(1, 41)]
    assert smooth(losses)[-1] == pytest.approx(mean(losses[-3:]))
    assert abs(smooth(losses)[-1] - losses[-1]) < 0.1


def test_noise_becomes_less_by_the_root_of_the_window() -> None:
    draw = random.Random(0)
    noise = [draw.gauss(0, 1) for _ in range(4000)]
    spread = math.sqrt(mean(value**2 for value in smooth(noise)[200:-200]))
    assert spread < 3 / math.sqrt(SMOOTHED_SHARE * 4000)  # neighbours share losses: a few independent ones remain


def test_what_is_not_finite_counts_nowhere() -> None:
    shown = smooth([1.0, math.nan, 1.0, math.inf] * 50)
    assert shown == pytest.approx([1.0] * 200) and math.isnan(smooth([math.nan])[0])
