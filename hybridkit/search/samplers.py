"""How candidates are proposed: optuna's samplers and aging evolution, each proposal a function of (seed, number).

A sampler never sees the storage: it is asked with a copy of the finished trials in memory, so that candidates that are
refused cost no write, and a study that is resumed proposes what it would have proposed without the interruption.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from hybridkit.recipe.schema import Scalar
from hybridkit.search.schema import SamplerName
from hybridkit.search.trials import Trial, rank
from hybridkit.search.variables import Categorical, Variable
from hybridkit.system.errors import MissingExtra

try:
    import optuna
    from optuna.distributions import (
        BaseDistribution,
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )
    from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
    from optuna.trial import FrozenTrial, TrialState, create_trial
except ImportError:
    raise MissingExtra("optuna", "search") from None

optuna.logging.set_verbosity(optuna.logging.ERROR)

SamplerMemory = dict[str, Any]  # what a sampler wants to find again beside a trial: plain data
POPULATION = (4, 50)  # the fewest and the most members of nsga2's and evolution's populations
TOURNAMENT = 4  # members of which evolution takes the best


SEEN = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "running": TrialState.RUNNING}


class Proposal(NamedTuple):
    """A choice of all variables, its number in the study, and what the sampler wants to find beside it again."""

    number: int
    params: dict[str, Scalar]
    memory: SamplerMemory


class Proposer:
    """Proposes choices of variables, given the trials so far."""

    def __init__(
        self, sampler: SamplerName, variables: Mapping[str, Variable], aims: Sequence[bool], trials: int
    ) -> None:
        self._name, self._aims = sampler, aims
        self._space = {name: distribution(variable) for name, variable in variables.items()}
        self._population = max(POPULATION[0], min(POPULATION[1], trials // 4))

    def stream(self, seed: int, first: int, trials: Sequence[Trial]) -> Iterator[Proposal]:
        """Proposals number `first` on, without end: who asks for another has passed over those before.

        A sampler hears of those as of trials that break a constraint. Otherwise a model of good trials would come to
        favour what no trial within the budget has ever had.
        """
        study = optuna.create_study(directions=["maximize" if aim else "minimize" for aim in self._aims])
        study.add_trials([frozen for trial in trials for frozen in self._known(trial, first)])
        for number in count(first):
            study.sampler = self._sampler(_seed(seed, number))
            trial = study.ask(self._space)
            found = study.get_trials(deepcopy=False)[-1]
            yield Proposal(number, dict(trial.params), dict(found.system_attrs))
            trial.set_constraint("worth training", 1)  # above zero: broken
            study.tell(trial, state=TrialState.PRUNED)

    def _known(self, trial: Trial, first: int) -> Iterator[FrozenTrial]:
        """A trial as samplers see it, once a choice that comes to the same recipe; failed ones are no evidence."""
        aliases = [alias.params for alias in trial.aliases if alias.proposal < first]
        for params in (trial.params, *aliases) if trial.state in SEEN else ():
            yield create_trial(
                state=SEEN[trial.state],
                values=trial.means if trial.state == "done" else None,
                params=params,
                distributions=self._space,
                system_attrs=trial.memory,
            )

    def _sampler(self, seed: int) -> BaseSampler:
        match self._name:
            case "tpe":
                return TPESampler(seed=seed)
            case "nsga2":
                return NSGAIISampler(seed=seed, population_size=self._population)
            case "evolution":
                return AgingEvolution(seed, self._population, self._aims)
            case _:
                return RandomSampler(seed=seed)


class AgingEvolution(BaseSampler):
    """Aging evolution (Real et al., arXiv 1802.01548): of some of the youngest trials, the best with one variable drawn
    anew. Several objectives are ranked by domination, then by the first."""

    def __init__(self, seed: int, population: int, aims: Sequence[bool]) -> None:
        self._random, self._fresh = random.Random(seed), RandomSampler(seed=seed)
        self._population, self._aims = population, aims

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
            best = rank([t.values for t in drawn], self._aims)[0]
            self._parent = drawn[best].params
            self._changed = self._random.choice(list(self._parent))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The parent's value, or a random one where there is no parent or this is the variable that changes."""
        if self._parent and param_name != self._changed:
            return self._parent[param_name]
        return self._fresh.sample_independent(study, trial, param_name, param_distribution)


def distribution(variable: Variable) -> BaseDistribution:
    """A variable as optuna has it."""
    if isinstance(variable, Categorical):
        return CategoricalDistribution(list(variable.options))
    if isinstance(variable.low, int):
        return IntDistribution(variable.low, int(variable.high), step=int(variable.step or 1))
    return FloatDistribution(variable.low, variable.high, log=variable.log, step=variable.step)


def _seed(seed: int, number: int) -> int:
    """A seed for each proposal, hashed: neighbours have nothing in common."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=4).digest(), "big")
