"""`sampler: random`: optuna's RandomSampler."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.samplers import BaseSampler, RandomSampler

from hybridkit.search.sampler import OptunaSampler


class Random(OptunaSampler):
    """Every choice is drawn independently of all others."""

    def build(self, seed: int, population: int, maximized: Sequence[bool]) -> BaseSampler:
        return RandomSampler(seed=seed)
