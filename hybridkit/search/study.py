"""A study: its folder, its trials, and the next candidate to try."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hybridkit.search.candidate import Candidate, CandidateFactory
from hybridkit.search.definition import Definition, write_definition
from hybridkit.search.feasible import require_feasible
from hybridkit.search.folder import LOSS_VERSION, OUTSIDE, SETTINGS, StudySettings, holds_study, read_settings
from hybridkit.search.objectives import EVAL, METRICS, UnknownMetric, look_up
from hybridkit.search.outcome import Outcome
from hybridkit.search.provenance import (
    RULES,
    candidate_origin,
    origin_difference,
    refuse_other_origin,
    run_rules,
    trained_origin,
)
from hybridkit.search.reader import StudyReader, goal_of, open_reader
from hybridkit.search.sampler import PATIENCE, Proposal, choose_sampler, distribution
from hybridkit.search.screening import Accepted, CandidateFilter, Counts
from hybridkit.search.storage import TrialStorage, create_storage
from hybridkit.search.trials import Trial, is_value
from hybridkit.system.errors import UserError
from hybridkit.system.files import write_whole
from hybridkit.system.links import check_tree
from hybridkit.system.lock import Lock

__all__ = ["PATIENCE", "Study", "create", "holds_study", "open_study", "resume"]


class Study(StudyReader):
    """A study whose candidates can be built and tried."""

    def __init__(self, definition: Definition, folder: Path, storage: TrialStorage, owner: str) -> None:
        super().__init__(definition, folder, storage, owner)
        self.factory = CandidateFactory(definition)
        self._variables = definition.space.variables
        self.stop_reason = ""  # why there are no more proposals

    def own_running(self) -> list[Trial]:
        """Running trials that the search of this folder has begun."""
        return [trial for trial in self.trials() if trial.state == "running" and trial.owner == self.owner]

    def candidate(self, trial: Trial) -> Candidate:
        """The candidate of a trial."""
        return self.factory.make(trial.params)

    @property
    def trials_without_origin(self) -> list[int]:
        """Trials of older versions, which recorded no text and no plug-ins: nobody can verify that they compare."""
        return [trial.number for trial in self.trials() if trial.state == "done" and not trial.origin]

    def check_origins(self) -> None:
        """Raises UserError where text, tokenizer, plug-ins or rules are not those of the trials so far."""
        trials = [self._with_rules(trial) for trial in self.trials() if trial.state != "failed"]
        for trial in {json.dumps(trial.origin, sort_keys=True): trial for trial in trials if trial.origin}.values():
            refuse_other_origin(self.folder, trials, candidate_origin(self.candidate(trial)))

    def _with_rules(self, trial: Trial) -> Trial:
        """The trial with the rules version in its origin; in an older study only the recipe of its run has it."""
        if RULES in trial.origin:
            return trial
        return replace(trial, origin=trial.origin | run_rules(self.run(trial, 0)))

    def begin(self) -> Trial | None:
        """Begin the next trial; None where the study has all its trials, or nothing new is proposed (`stop_reason`)."""
        trials = self.trials()
        if self.stop_reason or len(trials) >= self.num_trials:
            return None
        candidates = CandidateFilter(self.factory, trials)
        try:
            found = candidates.find(proposals(self.definition, trials, candidates.counts.proposals))
        except UserError:
            raise
        except Exception as error:  # a damaged `memory` may raise any exception in a sampler
            problem = f"the sampler cannot continue from the trials so far: {type(error).__name__}"
            raise UserError(f"{self.folder}: {problem}: {str(error)[:200]!a}") from error
        self.storage.add_aliases(candidates.aliases)
        self.storage.write_counts(candidates.counts)
        if found is None:
            nothing = f"nothing new within the budget in {candidates.counts.proposals:,} proposals"
            self.stop_reason = nothing if trials else candidates.message()
            return None
        return self._write(found, candidates.counts)

    def end(self, trial: Trial, outcome: Outcome) -> None:
        """Close a trial with the outcome of its worker."""
        if outcome.error is not None:
            return self.fail(trial, outcome.error)
        candidate = self.candidate(trial)
        for seed in range(len(outcome.seeds)):
            if difference := origin_difference(trial.origin, trained_origin(candidate, self.run(trial, seed))):
                return self.fail(trial, f"it was trained on something else than it began with: {difference}")
        try:
            values: list[list[float | None]] = [
                [self._objective(candidate, seed, name) for name in self.definition.file.objectives]
                for seed in outcome.seeds
            ]
        except UnknownMetric as error:
            return self.fail(trial, f"the runs report no {error}; they report {', '.join(error.known) or 'nothing'}")
        self.storage.set_fields(trial.number, values=values)
        self.storage.end(trial.number, "done", replace(trial, values=values).means)
        return None

    def fail(self, trial: Trial, reason: str) -> None:
        """Close a trial that has no result."""
        self.storage.set_fields(trial.number, reason=reason)
        self.storage.end(trial.number, "failed")

    def prune(self, trial: Trial, reason: str) -> None:
        """Close a trial that was stopped early."""
        self.storage.set_fields(trial.number, reason=reason)
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
        number = self.storage.begin(candidate.params, space, owner=self.owner, **about, **counts._asdict())
        trials = self.trials()
        if any(other.key == candidate.key for other in trials[:number]):  # another search began the same one
            self.fail(trials[number], "another trial tries the same")
            return self.begin()
        return trials[number]

    def _objective(self, candidate: Candidate, found: Mapping[str, Any], name: str) -> float:
        """The value of an objective. Raises UnknownMetric where the run does not report it, or it is not finite."""
        value = look_up(found, name) if name in METRICS or name.startswith(EVAL) else candidate.costs(name)
        if not is_value(value):
            raise UnknownMetric(name, [])
        return value


def proposals(definition: Definition, trials: Sequence[Trial], first: int) -> Iterator[Proposal]:
    """The proposals from number `first` on, given the trials so far."""
    return choose_sampler(definition.file.sampler).proposals(goal_of(definition), trials, first)


def create(definition: Definition, folder: Path, url: str | None) -> Study:
    """Begin a study in a folder that holds none; its trials are in the storage `url`, or else in the folder.

    Raises UserError, before anything is written, for any mistake, also a budget that no candidate satisfies.
    """
    factory = CandidateFactory(definition)
    factory.check_names()
    next(proposals(definition, [], 0), None)  # raises for an infinite grid, or one that is too large
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
    """Write a new study. Raises UserError where another search has begun one there."""
    check_tree(folder)
    if holds_study(folder):
        raise UserError(f"{folder} holds a study; continue it with --resume, or name another folder with --study")
    name, variables = definition.path.stem[:255], definition.space.variables
    storage = create_storage(folder, url, name, definition.maximized, variables)
    storage.claim(json.dumps(definition.fixed(), sort_keys=True))
    write_definition(definition, folder)
    # The address is not written: a folder from somebody else must not choose where a search writes.
    settings = StudySettings(storage=url and OUTSIDE, name=name, owner=uuid.uuid4().hex, loss=LOSS_VERSION)
    write_whole(folder / SETTINGS, settings.model_dump_json().encode())


def resume(definition: Definition, folder: Path, url: str | None = None) -> Study:
    """Continue a study, perhaps with more trials. Raises UserError where anything else has changed."""
    begun = open_study(folder, url)
    before, now = begun.definition.fixed(), definition.fixed()
    if changed := [name for name in {**before, **now} if before.get(name) != now.get(name)]:
        raise UserError(
            f"{folder} was begun with another {', '.join(changed)}; only trials may change on --resume. "
            "Use the same space file, or name another folder with --study"
        )
    if "loss" in definition.file.objectives and read_settings(folder).loss != LOSS_VERSION:
        raise UserError(
            f"{folder} was begun by a version whose objective `loss` was the mean of a run's last 50 steps; now it is"
            " that of its last tenth. Go on with that version, or begin another study with --study"
        )
    begun.check_origins()
    with Lock(folder, "--study"):
        write_definition(definition, folder)
    return open_study(folder, url)


def open_study(folder: Path, url: str | None = None) -> Study:
    """The study in a folder, as `open_reader` finds it; its candidates can be built and tried."""
    found = open_reader(folder, url)
    return Study(found.definition, found.folder, found.storage, found.owner)
