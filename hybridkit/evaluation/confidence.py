"""95 % confidence intervals for mean scores in [0, 1], in percent: Clopper-Pearson on the effective sample size.

The Clopper-Pearson interval (Biometrika 26, 1934) is exact for n independent 0/1 answers of which n p are right. Here
n is the effective sample size (Korn and Graubard, Survey Methodology 24, 1998): the number of independent 0/1 answers
whose mean has the same variance. The independent units are sequences: answers to one sequence may be correlated.
With p the mean score, K the effective number of sequences and d the variance of the mean divided by p (1 - p) / K,

    n = K max(1, (z / t)^2 / d)        z, t: the 97.5 % quantiles of the normal and of Student's t (K - 1 degrees)

so that n is at least K. The variance is estimated from the K sequences and one imaginary sequence, half right and half
wrong, because a few sequences, or sequences with equal scores, say too little about how much others would differ.
"""

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import NamedTuple

LEVEL = 0.95
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
_TAIL = (1 - LEVEL) / 2
_TINY = 1e-300
_CLOSE = 1e-9  # relative error


class ScoreInterval(NamedTuple):
    """A mean score and the interval around it, in percent."""

    score: float
    low: float
    high: float


def mean_score(scores: Sequence[float]) -> ScoreInterval:
    """The mean of independent scores in [0, 1], with its interval, in percent."""
    return clustered([[score] for score in scores])


def clustered(groups: Sequence[Sequence[float]]) -> ScoreInterval:
    """As `mean_score`, for scores in groups: those of one group may be correlated, the groups are independent."""
    groups = [group for group in groups if group]
    assert groups and all(-_CLOSE <= score <= 1 + _CLOSE for group in groups for score in group), "a score is in [0, 1]"
    total = sum(map(len, groups))
    share = min(1.0, max(0.0, math.fsum(map(math.fsum, groups)) / total))
    low, high = exact(share, _effective(groups, share, total))
    return ScoreInterval(100 * share, 100 * low, 100 * high)


def _effective(groups: Sequence[Sequence[float]], share: float, total: int) -> float:
    """The effective sample size n."""
    units = total**2 / sum(len(group) ** 2 for group in groups)  # K; the number of groups, if all are equally large
    binary = share * (1 - share)
    if binary < 1e-12:
        return units
    variance = math.fsum((math.fsum(group) - share * len(group)) ** 2 for group in groups) / total**2
    ratio = min(1.0, variance * units / binary + 1 / (4 * binary * units))
    return units * max(1.0, (_Z / student(max(1.0, units - 1))) ** 2 / ratio)


def exact(share: float, samples: float) -> tuple[float, float]:
    """The Clopper-Pearson interval of a share in `samples`, which need not be a whole number."""
    right = share * samples
    low = 0.0 if share <= 0 else beta_quantile(_TAIL, right, samples - right + 1)
    high = 1.0 if share >= 1 else beta_quantile(1 - _TAIL, right + 1, samples - right)
    return min(low, share), max(high, share)


@cache
def student(freedom: float) -> float:
    """The two-sided 95 % quantile of Student's t."""
    x = beta_quantile(LEVEL, 0.5, freedom / 2)
    return math.sqrt(freedom * x / (1 - x))


def beta_quantile(level: float, a: float, b: float) -> float:
    """The quantile `level` of Beta(a, b), by Newton's method where it stays between bounds, by bisection elsewhere."""
    low, high = 0.0, 1.0
    x = middle = 0.5
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    while high - low > _CLOSE * high and high > _TINY:
        excess = beta_cdf(x, a, b) - level
        low, high = (x, high) if excess < 0 else (low, x)
        middle = (low + high) / 2
        density = math.exp(scale + (a - 1) * math.log(x) + (b - 1) * math.log1p(-x))
        nearer = x - excess / density if density else middle
        if abs(nearer - x) <= _CLOSE / 10 * x:
            return nearer
        x = nearer if low < nearer < high else middle
    return middle


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function, as a continued fraction (Abramowitz and Stegun, 26.5.8)."""
    if x > (a + 1) / (a + b + 2):  # the fraction converges slowly there
        return 1 - beta_cdf(1 - x, b, a)
    if x <= 0:
        return 0.0
    log = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log) / a / _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
    """1 + d1 / (1 + d2 / (1 + ...)), by Lentz's method."""
    value = upper = 1.0
    lower = 0.0
    steps = 1000 + 10 * math.isqrt(int(a + b))
    for n in range(1, steps):
        m, odd = divmod(n, 2)
        if odd:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        lower = 1 / ((1 + term * lower) or _TINY)
        upper = (1 + term / upper) or _TINY
        value *= lower * upper
        if abs(lower * upper - 1) < _CLOSE / 1000:
            break
    return value
