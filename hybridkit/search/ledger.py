"""The trials of a study in an optuna storage: a journal file in its folder, or any storage URL for many machines."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridkit.errors import UserError
from hybridkit.schema import Scalar
from hybridkit.search.records import Alias, Counts, Record, State
from hybridkit.search.samplers import BaseDistribution, BaseSampler, FrozenTrial, TrialState, optuna

JOURNAL = "journal.log"
_STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
_FINAL = {state: final for final, state in _STATES.items()}
_DEFINITION, _COUNTS = "definition", "counts"
_ABOUT = "about"  # what a trial's record begins with, in one write; later fields stand beside it


class Ledger:
    """Reads and writes trials. Only the process that leads a search writes; workers never do."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    def claim(self, definition: str) -> None:
        """Note what the study is about, or find it noted. Raises UserError where it is about something else."""
        if self._study.user_attrs.setdefault(_DEFINITION, definition) != definition:
            raise UserError(f"the storage has a study `{self._study.study_name}` already, of another definition")
        self._study.set_user_attr(_DEFINITION, definition)

    def records(self) -> list[Record]:
        """All trials, in the order in which they began."""
        aliases = self._study.user_attrs
        return [
            _record(trial, aliases.get(_aliases(trial.number), [])) for trial in self._study.get_trials(deepcopy=False)
        ]

    def begin(self, params: Mapping[str, Scalar], space: Mapping[str, BaseDistribution], **about: Any) -> int:
        """Write a new running trial; its number. `about` are further fields of its record."""
        self._study.sampler = _Given(params)
        trial = self._study.ask(dict(space))
        trial.set_user_attr(_ABOUT, about)
        return trial.number

    def note(self, number: int, **about: Any) -> None:
        """Set fields of a running trial's record."""
        trial = self._study.get_trials(deepcopy=False)[number]
        for name, value in about.items():
            optuna.Trial(self._study, trial._trial_id).set_user_attr(name, value)

    def add_aliases(self, aliases: Mapping[int, Sequence[Alias]]) -> None:
        """Write, by trial, all other choices that come to its recipe."""
        for number, choices in aliases.items():
            self._study.set_user_attr(_aliases(number), [list(choice) for choice in choices])

    def count(self, counts: Counts) -> None:
        """Write how many proposals were made and passed over."""
        self._study.set_user_attr(_COUNTS, list(counts))

    def counts(self) -> Counts:
        """What `count` wrote last."""
        return Counts(*self._study.user_attrs.get(_COUNTS, []))

    def end(self, number: int, state: State, means: Sequence[float] | None = None) -> None:
        """Close a trial."""
        self._study.tell(number, values=means, state=_FINAL[state])


def open_ledger(folder: Path, url: str | None, name: str, maximized: Sequence[bool]) -> Ledger:
    """The study `name` of a storage, made where there is none. Raises UserError for a URL that cannot be opened."""
    either = optuna.study.StudyDirection
    directions = [either.MAXIMIZE if more else either.MINIMIZE for more in maximized]
    try:
        study = optuna.create_study(
            storage=url or _journal(folder / JOURNAL), study_name=name, directions=directions, load_if_exists=True
        )
    except Exception as error:  # each kind of storage has errors of its own
        raise UserError(f"--storage {url or folder / JOURNAL}: cannot be opened: {error}") from error
    return Ledger(study)


def _journal(path: Path) -> optuna.storages.BaseStorage:
    from optuna.storages.journal import JournalFileBackend

    return optuna.storages.JournalStorage(JournalFileBackend(str(path)))


def _aliases(number: int) -> str:
    return f"aliases of {number}"


def _record(trial: FrozenTrial, aliases: Sequence[Any]) -> Record:
    later = {name: value for name, value in trial.user_attrs.items() if name != _ABOUT}
    begun, ended = trial.datetime_start, trial.datetime_complete
    seconds = ((ended.timestamp() if ended else time.time()) - begun.timestamp()) if begun else 0.0
    about = trial.user_attrs.get(_ABOUT, {}) | later
    others = [Alias(*alias) for alias in aliases]
    return Record(trial.number, _STATES[trial.state], dict(trial.params), aliases=others, seconds=seconds, **about)


class _Given(BaseSampler):
    """Samples what was chosen already."""

    def __init__(self, params: Mapping[str, Scalar]) -> None:
        self._params = params

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """None: each variable is asked for by itself."""
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        """Nothing."""
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        """The value that was chosen."""
        return self._params[param_name]
