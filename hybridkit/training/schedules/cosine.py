"""`schedule: cosine`: half a cosine (arXiv 1608.03983, without restarts)."""

import math

from hybridkit.training.schedule import RateSchedule


class Cosine(RateSchedule):
    """(1 + cos(pi t)) / 2."""

    def remaining(self, t: float) -> float:
        return (1 + math.cos(math.pi * t)) / 2
