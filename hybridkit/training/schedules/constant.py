"""`schedule: constant`: the rate stays at `lr`."""

from hybridkit.training.schedule import RateSchedule


class Constant(RateSchedule):
    """1: `min_lr` is not used."""

    def remaining(self, t: float) -> float:
        return 1.0
