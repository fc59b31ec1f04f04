"""`sampler: tpe`: optuna's TPESampler."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.samplers import BaseSampler, TPESampler

from hybridkit.search.sampler import OptunaSampler


class Tpe(OptunaSampler):
    """Tree-structured Parzen estimator: a model of good and of other trials."""

    def build(self, seed: int, population: int, maximized: Sequence[bool]) -> BaseSampler:
        return TPESampler(seed=seed)
