"""The trials of a study in an optuna storage: a journal file in its folder, or a URL that several machines share."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from hybridkit.recipe.schema import Scalar
from hybridkit.search.sampler import BaseDistribution, BaseSampler, FrozenTrial, TrialState, optuna
from hybridkit.search.trials import Alias, Counts, StateName, Trial
from hybridkit.search.variables import Variable
from hybridkit.system.errors import UserError
from hybridkit.system.pydantic_errors import first_error

JOURNAL = "journal.log"
_LARGEST = 1 << 53  # upper limit of counts
_STRICT = ConfigDict(strict=True)
_TRIAL, _COUNTS_TYPE = TypeAdapter(Trial), TypeAdapter(tuple[int, int, int], config=_STRICT)
_STATES: dict[TrialState, StateName] = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
_FINAL = {state: final for final, state in _STATES.items()}
_DEFINITION, _COUNTS = "definition", "counts"
_ABOUT = "about"  # the fields of a new trial, in one write; later fields are attributes of their own


class TrialStorage:
    """Reads and writes trials. Only the process of the search writes; workers do not.

    All that is read is validated. Raises UserError, which names `place`, for a trial that does not fit `variables` or
    the number of `objectives`.
    """

    def __init__(self, study: optuna.Study, place: str, variables: Mapping[str, Variable], objectives: int) -> None:
        self._study, self._place, self._variables, self._objectives = study, place, variables, objectives

    def claim(self, definition: str) -> None:
        """Write the definition of the study. Raises UserError where the storage has another one for this name."""
        if self._study.user_attrs.setdefault(_DEFINITION, definition) != definition:
            raise UserError(f"the storage has a study `{self._study.study_name}` already, of another definition")
        self._study.set_user_attr(_DEFINITION, definition)

    def trials(self) -> list[Trial]:
        """All trials, in the order in which they began."""
        with _reading(self._place):
            about = self._study.user_attrs
            trials = self._study.get_trials(deepcopy=False)
            return [self._trial(trial, about.get(_aliases(trial.number), [])) for trial in trials]

    def _trial(self, frozen: FrozenTrial, aliases: Sequence[Any]) -> Trial:
        trial = _validated(frozen, aliases)
        for params in (trial.params, *(alias.params for alias in trial.aliases)):
            if params.keys() != self._variables.keys():
                raise ValueError(f"trial {frozen.number} does not choose the variables of the space")
            if wrong := [name for name, value in params.items() if not self._variables[name].holds(value)]:
                raise ValueError(
                    f"trial {frozen.number}: {wrong[0]}: {params[wrong[0]]!r} is none of the space's values"
                )
        if trial.state == "done" and not trial.has_values(self._objectives):
            return replace(trial, state="failed", reason="an objective has no value: nothing was counted for it")
        return trial

    def begin(self, params: Mapping[str, Scalar], space: Mapping[str, BaseDistribution], **about: Any) -> int:
        """Write a new running trial, with `about` as further fields; its number."""
        self._study.sampler = _FixedSampler(params)
        trial = self._study.ask(dict(space))
        trial.set_user_attr(_ABOUT, about)
        return trial.number

    def set_fields(self, number: int, **about: Any) -> None:
        """Set fields of a running trial."""
        trial = self._study.get_trials(deepcopy=False)[number]
        for name, value in about.items():
            optuna.Trial(self._study, trial._trial_id).set_user_attr(name, value)

    def add_aliases(self, aliases: Mapping[int, Sequence[Alias]]) -> None:
        """Write, by trial, all other choices with its recipe."""
        for number, choices in aliases.items():
            self._study.set_user_attr(_aliases(number), [list(choice) for choice in choices])

    def write_counts(self, counts: Counts) -> None:
        """Write the counts of proposals."""
        self._study.set_user_attr(_COUNTS, list(counts))

    def read_counts(self) -> Counts:
        """The counts of proposals."""
        with _reading(self._place):
            return Counts(*_COUNTS_TYPE.validate_python(tuple(self._study.user_attrs.get(_COUNTS, Counts()))))

    def end(self, number: int, state: StateName, means: Sequence[float] | None = None) -> None:
        """Close a trial."""
        self._study.tell(number, values=means, state=_FINAL[state])


def create_storage(
    folder: Path, url: str | None, name: str, maximized: Sequence[bool], variables: Mapping[str, Variable]
) -> TrialStorage:
    """The study `name` of a storage, created if it is missing. Raises UserError for a URL that cannot be opened."""
    either = optuna.study.StudyDirection
    directions = [either.MAXIMIZE if more else either.MINIMIZE for more in maximized]
    with _opening(place := _place(folder, url)):
        study = optuna.create_study(
            storage=_storage(folder, url), study_name=name, directions=directions, load_if_exists=True
        )
    return TrialStorage(study, place, variables, len(maximized))


def open_storage(
    folder: Path, url: str | None, name: str, maximized: Sequence[bool], variables: Mapping[str, Variable]
) -> TrialStorage:
    """The existing study `name` of a storage; nothing is written. Raises UserError where it cannot be read."""
    place = _place(folder, url)
    if url is None and not (folder / JOURNAL).is_file():
        raise UserError(f"{place}: no such file, which holds the study's trials")
    with _opening(place):
        study = optuna.load_study(storage=_storage(folder, url), study_name=name)
        directions = [direction == optuna.study.StudyDirection.MAXIMIZE for direction in study.directions]
    if directions != list(maximized):
        raise UserError(f"{place}: the study `{name}` has other objectives than {folder}")
    return TrialStorage(study, place, variables, len(maximized))


def repair_journal(folder: Path) -> None:
    """Remove an incomplete last line, which a full disk or a kill leaves, and the journal's lock.

    Call it only while the study's folder is locked.
    """
    path = folder / JOURNAL
    if not path.is_file():
        return
    path.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        end = whole = file.tell()
        while whole and (step := min(whole, 1 << 16)):
            file.seek(whole - step)
            if (found := file.read(step).rfind(b"\n")) >= 0:
                whole += found + 1 - step
                break
            whole -= step
    if whole < end:
        os.truncate(path, whole)


def _place(folder: Path, url: str | None) -> str:
    return f"--storage {url}" if url else str(folder / JOURNAL)


def _storage(folder: Path, url: str | None) -> str | optuna.storages.BaseStorage:
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    if url:
        return url
    path = str(folder / JOURNAL)  # JSON lines; the lock is a file, since a study folder has no links
    return optuna.storages.JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))


@contextmanager
def _opening(place: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each storage raises its own errors
        raise UserError(f"{place}: cannot be opened: {_one_line(error)}") from error


@contextmanager
def _reading(place: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged trial may raise any exception
        raise UserError(f"{place}: the study's trials cannot be read: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    """An error in one line of limited length, in ASCII."""
    if isinstance(error, ValidationError):
        text = first_error(error)
    else:
        text = str(error) if isinstance(error, ValueError) and str(error) else f"{type(error).__name__} {error}"
    return ascii(" ".join(text.split())[:200])[1:-1]


def _aliases(number: int) -> str:
    return f"aliases of {number}"


def _validated(frozen: FrozenTrial, aliases: Sequence[Any]) -> Trial:
    """An optuna trial as a Trial. Raises ValueError and other errors for one that no search wrote."""
    later = {name: value for name, value in frozen.user_attrs.items() if name != _ABOUT}
    begun, ended = frozen.datetime_start, frozen.datetime_complete
    seconds = ((ended.timestamp() if ended else time.time()) - begun.timestamp()) if begun else 0.0
    about = frozen.user_attrs.get(_ABOUT, {}) | later
    others = [Alias(*alias) for alias in aliases]
    own: dict[str, Any] = {"number": frozen.number, "state": _STATES[frozen.state], "params": dict(frozen.params)}
    own |= {"aliases": others, "seconds": seconds}
    if both := own.keys() & about.keys():
        raise ValueError(f"trial {frozen.number} has a field {min(both)}, which is reserved for optuna")
    trial: Trial = _TRIAL.validate_python(about | own)
    numbers = (trial.proposals, trial.rejected, trial.duplicates, *(alias.proposal for alias in others))
    if not all(0 <= number < _LARGEST for number in numbers):
        raise ValueError(f"trial {frozen.number} has an impossible count of proposals")
    return trial


class _FixedSampler(BaseSampler):
    """Returns values that are already chosen."""

    def __init__(self, params: Mapping[str, Scalar]) -> None:
        self._params = params

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Empty: each variable is sampled independently."""
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        """Empty."""
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        """The chosen value."""
        return self._params[param_name]
