"""Smoothing of training curves, whose single batches scatter."""

import math
from collections.abc import Sequence
from itertools import accumulate

SMOOTHED_SHARE = 0.05  # of a run, over which the middle of the curve is averaged; its ends, over half of that


def smooth(losses: Sequence[float]) -> list[float]:
    """The mean of the losses around each place, as many on both sides: SHARE / 2 of all, fewer only at the ends.

    A straight line stays where it is, but for the last SHARE / 2 of it, which lags by at most SHARE / 4 of the run:
    its last point is the mean of the last SHARE / 2. What is not finite counts nowhere.
    """
    half = round(SMOOTHED_SHARE / 2 * len(losses))
    finite = [math.isfinite(loss) for loss in losses]
    sums = [0.0, *accumulate(loss if good else 0.0 for loss, good in zip(losses, finite, strict=True))]
    counts = [0, *accumulate(finite)]
    spans = [(max(0, at - half), min(len(losses), at + half + 1)) for at in range(len(losses))]
    return [
        (sums[end] - sums[begin]) / (counts[end] - counts[begin]) if counts[end] > counts[begin] else math.nan
        for begin, end in spans
    ]
