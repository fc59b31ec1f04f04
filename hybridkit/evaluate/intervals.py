"""95 % confidence intervals of scores, in percent.

Scores that are 0 or 1 take Wilson's interval (JASA 22, 1927), which holds near 0 and 100 %; shares between them take
Student's t on their mean, cut off at 0 and 100 %.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist, mean, stdev
from typing import NamedTuple

LEVEL = 0.95
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


class Estimate(NamedTuple):
    """A mean score and the interval around it, in percent."""

    score: float
    low: float
    high: float


def estimate(scores: Sequence[float]) -> Estimate:
    """The mean of one or more scores in [0, 1] with its interval, and in percent."""
    if all(score in (0, 1) for score in scores):
        return _percent(mean(scores), *wilson(sum(scores), len(scores)))
    reach = student(len(scores) - 1) * stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else 1.0
    return _percent(mean(scores), mean(scores) - reach, mean(scores) + reach)


def wilson(right: float, samples: int) -> tuple[float, float]:
    """Wilson's interval of a share: `right` of `samples`."""
    share, weight = right / samples, _Z**2 / samples
    centre = (share + weight / 2) / (1 + weight)
    reach = _Z / (1 + weight) * math.sqrt(share * (1 - share) / samples + weight / (4 * samples))
    return centre - reach, centre + reach


def student(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t: Hill's expansion (CACM 13, 1970), exact for 1 and 2 degrees."""
    if freedom == 1:
        return math.tan(math.pi * LEVEL / 2)
    if freedom == 2:
        return LEVEL * math.sqrt(2 / (1 - LEVEL**2))
    g1 = (_Z**3 + _Z) / 4
    g2 = (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / 96
    g3 = (3 * _Z**7 + 19 * _Z**5 + 17 * _Z**3 - 15 * _Z) / 384
    g4 = (79 * _Z**9 + 776 * _Z**7 + 1482 * _Z**5 - 1920 * _Z**3 - 945 * _Z) / 92160
    return _Z + g1 / freedom + g2 / freedom**2 + g3 / freedom**3 + g4 / freedom**4


def _percent(score: float, low: float, high: float) -> Estimate:
    return Estimate(100 * score, 100 * max(0.0, low), 100 * min(1.0, high))
