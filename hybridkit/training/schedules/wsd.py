"""`schedule: wsd`: warm-up, stable, decay (arXiv 2404.06395, which decays in the last 10 to 20 %)."""

from pydantic import Field

from hybridkit.training.schedule import RateSchedule


class Wsd(RateSchedule):
    """1, then linearly down to 0 in the last part."""

    decay: float = Field(default=0.2, gt=0, le=1, description="The share of the steps after warm-up in which it falls.")

    def remaining(self, t: float) -> float:
        return min(1.0, (1 - t) / self.decay)
