"""`sampler: evolution`: aging evolution (Real et al., arXiv 1802.01548)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from hybridkit.search.sampler import OptunaSampler
from hybridkit.search.trials import rank

TOURNAMENT = 4  # members of which the best becomes the parent


class Evolution(OptunaSampler):
    """One variable of a good recent trial is drawn anew."""

    def build(self, seed: int, population: int, maximized: Sequence[bool]) -> BaseSampler:
        return AgingEvolution(seed, population, maximized)


class AgingEvolution(BaseSampler):
    """The population is the youngest trials. Of some of them, the best gets one variable drawn anew.

    Several objectives are ranked by domination, then by the first.
    """

    def __init__(self, seed: int, population: int, maximized: Sequence[bool]) -> None:
        self._random, self._fresh = random.Random(seed), RandomSampler(seed=seed)
        self._population, self._maximized = population, maximized

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """None: each variable is asked for by itself."""
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        """Nothing."""
        return {}

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Choose the parent, and the variable that changes."""
        living = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE][-self._population :]
        self._parent: Mapping[str, Any] = {}
        self._changed = None
        if len(living) == self._population:
            drawn = self._random.sample(living, min(TOURNAMENT, len(living)))
            best = rank([t.values for t in drawn], self._maximized)[0]
            self._parent = drawn[best].params
            self._changed = self._random.choice(list(self._parent))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The parent's value, or a random one where there is no parent or this is the variable that changes."""
        if self._parent and param_name != self._changed:
            return self._parent[param_name]
        return self._fresh.sample_independent(study, trial, param_name, param_distribution)
