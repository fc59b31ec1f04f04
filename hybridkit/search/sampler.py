"""The kind "sampler": how candidates are proposed. One file of `search/samplers/`, or a plug-in, holds one class.

Each proposal is a function of the seed, its number and the trials so far. A sampler never sees the storage: it is given
the trials as data. So a refused candidate writes nothing, and a resumed study proposes what it would have proposed.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any, ClassVar, NamedTuple

from hybridkit.recipe.schema import Scalar
from hybridkit.registry.registry import REGISTRY
from hybridkit.search.schema import SAMPLER
from hybridkit.search.space import Space
from hybridkit.search.trials import Trial
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
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, TrialState, create_trial
except ImportError:
    raise MissingExtra("optuna", "search") from None

optuna.logging.set_verbosity(optuna.logging.ERROR)

SamplerMemory = dict[str, Any]  # what a sampler wants to find again beside a trial: plain data
POPULATION = (4, 50)  # the fewest and the most members of nsga2's and evolution's populations
PATIENCE = 1000  # proposals in a row without a new candidate within the budget, after which a search gives up
SEEN = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "running": TrialState.RUNNING}


class Proposal(NamedTuple):
    """A choice of all variables, its number in the study, and what the sampler wants to find beside it again."""

    number: int
    params: dict[str, Scalar]
    memory: SamplerMemory


class SearchGoal(NamedTuple):
    """What a study asks of its sampler."""

    space: Space
    maximized: tuple[bool, ...]  # of each objective, whether more is better
    trials: int  # wanted
    seed: int


class Sampler(ABC):
    """Proposes choices of all variables."""

    kind: ClassVar[str] = SAMPLER.name

    def count(self, goal: SearchGoal) -> int:
        """How many trials the study shall have; by default as many as it asks for."""
        return goal.trials

    @abstractmethod
    def proposals(self, goal: SearchGoal, trials: Sequence[Trial], first: int) -> Iterator[Proposal]:
        """Proposals from number `first` on, given the trials so far. Each that is asked for after another means that
        the other was refused. Raises SpaceError for a space that does not suit."""


class OptunaSampler(Sampler, ABC):
    """One of optuna's samplers. A new one is built for every proposal, with a seed of its own."""

    @abstractmethod
    def build(self, seed: int, population: int, maximized: Sequence[bool]) -> BaseSampler:
        """The optuna sampler. `population`: how many members evolution should keep in a study of this length."""

    def proposals(self, goal: SearchGoal, trials: Sequence[Trial], first: int) -> Iterator[Proposal]:
        proposer = Proposer(self.build, goal.space.variables, goal.maximized, goal.trials)
        return islice(proposer.stream(goal.seed, first, trials), PATIENCE)


def choose_sampler(name: str) -> Sampler:
    """The sampler of a name. Raises UserError for an unknown one."""
    made: Sampler = REGISTRY.get(SAMPLER, name)()
    return made


class Proposer:
    """Asks optuna's samplers for choices of variables, given the trials so far."""

    def __init__(
        self,
        build: Callable[[int, int, Sequence[bool]], BaseSampler],
        variables: Mapping[str, Variable],
        maximized: Sequence[bool],
        trials: int,
    ) -> None:
        self._build, self._maximized = build, maximized
        self._space = {name: distribution(variable) for name, variable in variables.items()}
        self._population = max(POPULATION[0], min(POPULATION[1], trials // 4))

    def stream(self, seed: int, first: int, trials: Sequence[Trial]) -> Iterator[Proposal]:
        """Proposals from number `first` on, without end. To ask for another means that the one before was refused.

        Refused proposals are told to the sampler as trials that break a constraint. Otherwise its model of good trials
        would prefer values that no trial within the budget has.
        """
        study = optuna.create_study(directions=["maximize" if more else "minimize" for more in self._maximized])
        study.add_trials([frozen for trial in trials for frozen in self._known(trial, first)])
        for number in count(first):
            study.sampler = self._build(_seed(seed, number), self._population, self._maximized)
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
