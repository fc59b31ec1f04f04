"""A study: its folder, its trials, and what to try next."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from hybridkit.runs.run import Run
from hybridkit.search.candidate import Candidate, CandidateFactory
from hybridkit.search.definition import SPACE, Definition, read_definition, write_definition
from hybridkit.search.feasible import require_feasible
from hybridkit.search.folder import OUTSIDE, SETTINGS, StudySettings, holds_study, read_settings
from hybridkit.search.objectives import EVAL, METRICS, UnknownMetric, look_up
from hybridkit.search.provenance import candidate_origin, difference, refuse_other_origin, run_origin
from hybridkit.search.samplers import Proposal, Proposer, distribution
from hybridkit.search.screening import Accepted, CandidateFilter, Counts
from hybridkit.search.storage import TrialStorage, create_storage, open_storage
from hybridkit.search.trials import Trial, is_value
from hybridkit.search.worker import Outcome
from hybridkit.system.errors import UserError
from hybridkit.system.files import write_whole
from hybridkit.system.links import check_tree
from hybridkit.system.lock import Lock

__all__ = ["Study", "create", "holds_study", "open_study", "resume"]

PATIENCE = 1000  # proposals in a row without a new candidate within the budget, after which a search gives up


class Study:
    """The trials of a definition, in a folder and a storage."""

    def __init__(self, definition: Definition, folder: Path, storage: TrialStorage, owner: str) -> None:
        self.definition, self.folder, self.storage, self._owner = definition, folder, storage, owner
        self.factory = CandidateFactory(definition)
        self._variables = definition.space.variables
        self.ended = ""  # why nothing more is proposed

    @property
    def wanted(self) -> int:
        """Trials that the study shall have: those asked for, or all of a grid."""
        file = self.definition.file
        if file.sampler == "grid":
            return self.definition.space.size() or 0
        return file.trials

    def trials(self) -> list[Trial]:
        """All trials so far."""
        return self.storage.trials()

    def own_running(self) -> list[Trial]:
        """Running trials that this folder's search has begun."""
        return [trial for trial in self.trials() if trial.state == "running" and trial.owner == self._owner]

    def trial_folder(self, number: int) -> Path:
        """Where a trial's runs are."""
        return self.folder / "trials" / f"{number:04d}"

    def candidate(self, trial: Trial) -> Candidate:
        """The candidate that a trial tries."""
        return self.factory.make(trial.params)

    @property
    def unverified(self) -> list[int]:
        """Trials of older versions, which recorded neither text nor code: whether they compare cannot be told."""
        return [trial.number for trial in self.trials() if trial.state == "done" and not trial.origin]

    def check_origins(self) -> None:
        """Raises UserError where text, tokenizer or plug-ins are not those of the trials so far."""
        trials = self.trials()
        for origin in {json.dumps(trial.origin, sort_keys=True): trial for trial in trials}.values():
            if origin.origin and origin.state != "failed":
                refuse_other_origin(self.folder, trials, candidate_origin(self.candidate(origin)))

    def begin(self) -> Trial | None:
        """Begin the next trial; None where the study has all it shall have, or nothing new is proposed (`ended`)."""
        trials = self.trials()
        if self.ended or len(trials) >= self.wanted:
            return None
        candidates = CandidateFilter(self.factory, trials)
        try:
            found = candidates.find(proposals(self.definition, trials, candidates.counts.proposals))
        except UserError:
            raise
        except Exception as error:  # what a sampler makes of a trial's `memory` that none has written
            said = f"the sampler cannot go on from the trials so far: {type(error).__name__}"
            raise UserError(f"{self.folder}: {said}: {str(error)[:200]!a}") from error
        self.storage.add_aliases(candidates.aliases)
        self.storage.count(candidates.counts)
        if found is None:
            none = f"nothing new within the budget in {candidates.counts.proposals:,} proposals"
            self.ended = none if trials else candidates.complaint()
            return None
        return self._write(found, candidates.counts)

    def end(self, trial: Trial, outcome: Outcome) -> None:
        """Close a trial with what its worker says."""
        if outcome.error is not None:
            return self.fail(trial, outcome.error)
        candidate = self.candidate(trial)
        for seed in range(len(outcome.seeds)):
            run = Run(self.trial_folder(trial.number) / f"seed-{seed}")
            if what := difference(trial.origin, run_origin(candidate, run)):
                return self.fail(trial, f"it was trained on something else than it began with: {what}")
        try:
            values: list[list[float | None]] = [
                [self._figure(candidate, seed, name) for name in self.definition.file.objectives]
                for seed in outcome.seeds
            ]
        except UnknownMetric as error:
            return self.fail(trial, f"the runs report no {error}; they report {', '.join(error.known) or 'nothing'}")
        self.storage.note(trial.number, values=values)
        self.storage.end(trial.number, "done", replace(trial, values=values).means)
        return None

    def fail(self, trial: Trial, reason: str) -> None:
        """Close a trial that came to nothing."""
        self.storage.note(trial.number, reason=reason)
        self.storage.end(trial.number, "failed")

    def prune(self, trial: Trial, reason: str) -> None:
        """Close a trial that was stopped early."""
        self.storage.note(trial.number, reason=reason)
        self.storage.end(trial.number, "pruned")

    def _write(self, found: Accepted, counts: Counts) -> Trial | None:
        candidate = found.candidate
        space = {name: distribution(variable) for name, variable in self._variables.items()}
        costs = self.factory.check_budget(candidate).values
        origin = candidate_origin(candidate)
        refuse_other_origin(self.folder, self.trials(), origin)
        about = {
            "origin": origin,
            "pattern": candidate.pattern,
            "key": candidate.key,
            "costs": costs,
            "memory": found.memory,
        }
        number = self.storage.begin(candidate.params, space, owner=self._owner, **about, **counts._asdict())
        trials = self.trials()
        if any(other.key == candidate.key for other in trials[:number]):  # another machine was quicker
            self.fail(trials[number], "another trial tries the same")
            return self.begin()
        return trials[number]

    def _figure(self, candidate: Candidate, found: Mapping[str, Any], name: str) -> float:
        """The figure of an objective. Raises UnknownMetric where the run does not report it, or nothing was counted."""
        value = look_up(found, name) if name in METRICS or name.startswith(EVAL) else candidate.costs(name)
        if not is_value(value):
            raise UnknownMetric(name, [])
        return value


def proposals(definition: Definition, trials: Sequence[Trial], first: int) -> Iterator[Proposal]:
    """What may be tried next, from proposal number `first` on, given the trials so far."""
    file, space = definition.file, definition.space
    if file.sampler == "grid":
        return (Proposal(number, params, {}) for number, params in enumerate(space.grid()) if number >= first)
    proposer = Proposer(file.sampler, space.variables, definition.maximized, file.trials)
    return islice(proposer.stream(file.seed, first, trials), PATIENCE)


def create(definition: Definition, folder: Path, url: str | None) -> Study:
    """Begin a study in a folder that holds none, its trials in the storage `url` or, without one, in the folder.

    Raises UserError, before anything is written, for what is wrong, a budget that nothing satisfies included.
    """
    factory = CandidateFactory(definition)
    factory.check_names()
    next(proposals(definition, [], 0), None)  # a grid without end, or too large a one
    require_feasible(factory, lambda: proposals(definition, [], 0))
    factory.check()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"--study {folder}: a file is in the way; name a folder") from error
    with Lock(folder, "--study"):
        _write(definition, folder, url)
    return open_study(folder, url)


def _write(definition: Definition, folder: Path, url: str | None) -> None:
    """Write a new study. Raises UserError where another search was quicker."""
    check_tree(folder)
    if holds_study(folder):
        raise UserError(f"{folder} holds a study; go on with it with --resume, or name another folder with --study")
    name, variables = definition.path.stem[:255], definition.space.variables
    storage = create_storage(folder, url, name, definition.maximized, variables)
    storage.claim(json.dumps(definition.fixed(), sort_keys=True))
    write_definition(definition, folder)
    # An address stays with its user: a folder may come from somebody else, and nothing is written where that says.
    settings = StudySettings(storage=url and OUTSIDE, name=name, owner=uuid.uuid4().hex)
    write_whole(folder / SETTINGS, settings.model_dump_json().encode())


def resume(definition: Definition, folder: Path, url: str | None = None) -> Study:
    """Go on with a study; more trials may be asked for. Raises UserError where anything else has changed."""
    begun = open_study(folder, url).definition
    was, now = begun.fixed(), definition.fixed()
    if changed := [name for name in was if was[name] != now[name]]:
        raise UserError(
            f"{folder} was begun with another {', '.join(changed)}; only trials may change on --resume. "
            "Use the same space file, or name another folder with --study"
        )
    with Lock(folder, "--study"):
        write_definition(definition, folder)
    study = open_study(folder, url)
    study.check_origins()
    return study


def open_study(folder: Path, url: str | None = None) -> Study:
    """The study in a folder, its trials in the storage `url` where it was begun with one; nothing is written.

    Raises UserError where there is none, or one that cannot be read.
    """
    settings = read_settings(folder)
    if url and not settings.storage:
        raise UserError(f"--storage: {folder} holds its trials itself; leave it out")
    if settings.storage and not url:
        raise UserError(f"{folder} keeps its trials in a storage outside; give its address with --storage")
    definition = read_definition(folder / SPACE)
    storage = open_storage(folder, url, settings.name, definition.maximized, definition.space.variables)
    return Study(definition, folder, storage, settings.owner)
