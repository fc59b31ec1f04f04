"""`sampler: nsga2`: optuna's NSGAIISampler."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.samplers import BaseSampler, NSGAIISampler

from hybridkit.search.sampler import OptunaSampler


class Nsga2(OptunaSampler):
    """NSGA-II: evolution for several objectives."""

    def build(self, seed: int, population: int, maximized: Sequence[bool]) -> BaseSampler:
        return NSGAIISampler(seed=seed, population_size=population)
