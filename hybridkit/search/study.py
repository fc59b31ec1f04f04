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
from hybridkit.search.candidate import Candidate, Workshop
from hybridkit.search.definition import SPACE, Definition, read_definition, write_definition
from hybridkit.search.feasible import require
from hybridkit.search.folder import OUTSIDE, SETTINGS, Settings, holds_study, read_settings
from hybridkit.search.objectives import EVAL, METRICS, Unknown, look_up
from hybridkit.search.provenance import difference, origin_of, origin_of_run, refuse_other
from hybridkit.search.samplers import Proposal, Proposer, distribution
from hybridkit.search.screening import Counts, Found, Hunt
from hybridkit.search.storage import Ledger, create_ledger, open_ledger
from hybridkit.search.trials import Record, is_value
from hybridkit.search.worker import Outcome
from hybridkit.system.errors import UserError
from hybridkit.system.files import write_whole
from hybridkit.system.links import check_tree
from hybridkit.system.lock import Lock

__all__ = ["Study", "create", "holds_study", "open_study", "resume"]

PATIENCE = 1000  # proposals in a row without a new candidate within the budget, after which a search gives up


class Study:
    """The trials of a definition, in a folder and a storage."""

    def __init__(self, definition: Definition, folder: Path, ledger: Ledger, owner: str) -> None:
        self.definition, self.folder, self.ledger, self._owner = definition, folder, ledger, owner
        self.workshop = Workshop(definition)
        self._variables = definition.space.variables
        self.ended = ""  # why nothing more is proposed

    @property
    def wanted(self) -> int:
        """Trials that the study shall have: those asked for, or all of a grid."""
        file = self.definition.file
        if file.sampler == "grid":
            return self.definition.space.size() or 0
        return file.trials

    def records(self) -> list[Record]:
        """All trials so far."""
        return self.ledger.records()

    def mine(self) -> list[Record]:
        """Running trials that this folder's search has begun."""
        return [record for record in self.records() if record.state == "running" and record.owner == self._owner]

    def trial_folder(self, number: int) -> Path:
        """Where a trial's runs are."""
        return self.folder / "trials" / f"{number:04d}"

    def candidate(self, record: Record) -> Candidate:
        """The candidate that a trial tries."""
        return self.workshop.make(record.params)

    @property
    def unverified(self) -> list[int]:
        """Trials of older versions, which recorded neither text nor code: whether they compare cannot be told."""
        return [record.number for record in self.records() if record.state == "done" and not record.origin]

    def refuse_other_origin(self) -> None:
        """Raises UserError where text, tokenizer or plug-ins are not those of the trials so far."""
        records = self.records()
        for origin in {json.dumps(record.origin, sort_keys=True): record for record in records}.values():
            if origin.origin and origin.state != "failed":
                refuse_other(self.folder, records, origin_of(self.candidate(origin)))

    def begin(self) -> Record | None:
        """Begin the next trial; None where the study has all it shall have, or nothing new is proposed (`ended`)."""
        records = self.records()
        if self.ended or len(records) >= self.wanted:
            return None
        hunt = Hunt(self.workshop, records)
        try:
            found = hunt.find(proposals(self.definition, records, hunt.counts.proposals))
        except UserError:
            raise
        except Exception as error:  # what a sampler makes of a record's `memory` that none has written
            said = f"the sampler cannot go on from the trials so far: {type(error).__name__}"
            raise UserError(f"{self.folder}: {said}: {str(error)[:200]!a}") from error
        self.ledger.add_aliases(hunt.aliases)
        self.ledger.count(hunt.counts)
        if found is None:
            none = f"nothing new within the budget in {hunt.counts.proposals:,} proposals"
            self.ended = none if records else hunt.complaint()
            return None
        return self._write(found, hunt.counts)

    def end(self, record: Record, outcome: Outcome) -> None:
        """Close a trial with what its worker says."""
        if outcome.error is not None:
            return self.fail(record, outcome.error)
        candidate = self.candidate(record)
        for seed in range(len(outcome.seeds)):
            run = Run(self.trial_folder(record.number) / f"seed-{seed}")
            if what := difference(record.origin, origin_of_run(candidate, run)):
                return self.fail(record, f"it was trained on something else than it began with: {what}")
        try:
            values: list[list[float | None]] = [
                [self._figure(candidate, seed, name) for name in self.definition.file.objectives]
                for seed in outcome.seeds
            ]
        except Unknown as error:
            return self.fail(record, f"the runs report no {error}; they report {', '.join(error.known) or 'nothing'}")
        self.ledger.note(record.number, values=values)
        self.ledger.end(record.number, "done", replace(record, values=values).means)
        return None

    def fail(self, record: Record, reason: str) -> None:
        """Close a trial that came to nothing."""
        self.ledger.note(record.number, reason=reason)
        self.ledger.end(record.number, "failed")

    def prune(self, record: Record, reason: str) -> None:
        """Close a trial that was stopped early."""
        self.ledger.note(record.number, reason=reason)
        self.ledger.end(record.number, "pruned")

    def _write(self, found: Found, counts: Counts) -> Record | None:
        candidate = found.candidate
        space = {name: distribution(variable) for name, variable in self._variables.items()}
        costs = self.workshop.judge(candidate).values
        origin = origin_of(candidate)
        refuse_other(self.folder, self.records(), origin)
        about = {
            "origin": origin,
            "pattern": candidate.pattern,
            "key": candidate.key,
            "costs": costs,
            "memory": found.memory,
        }
        number = self.ledger.begin(candidate.params, space, owner=self._owner, **about, **counts._asdict())
        records = self.records()
        if any(other.key == candidate.key for other in records[:number]):  # another machine was quicker
            self.fail(records[number], "another trial tries the same")
            return self.begin()
        return records[number]

    def _figure(self, candidate: Candidate, found: Mapping[str, Any], name: str) -> float:
        """The figure of an objective. Raises Unknown where the run does not report it, or nothing was counted."""
        value = look_up(found, name) if name in METRICS or name.startswith(EVAL) else candidate.costs(name)
        if not is_value(value):
            raise Unknown(name, [])
        return value


def proposals(definition: Definition, records: Sequence[Record], first: int) -> Iterator[Proposal]:
    """What may be tried next, from proposal number `first` on, given the trials so far."""
    file, space = definition.file, definition.space
    if file.sampler == "grid":
        return (Proposal(number, params, {}) for number, params in enumerate(space.grid()) if number >= first)
    proposer = Proposer(file.sampler, space.variables, definition.maximized, file.trials)
    return islice(proposer.stream(file.seed, first, records), PATIENCE)


def create(definition: Definition, folder: Path, url: str | None) -> Study:
    """Begin a study in a folder that holds none, its trials in the storage `url` or, without one, in the folder.

    Raises UserError, before anything is written, for what is wrong, a budget that nothing satisfies included.
    """
    workshop = Workshop(definition)
    workshop.check_names()
    next(proposals(definition, [], 0), None)  # a grid without end, or too large a one
    require(workshop, lambda: proposals(definition, [], 0))
    workshop.check()
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
    ledger = create_ledger(folder, url, name, definition.maximized, variables)
    ledger.claim(json.dumps(definition.fixed(), sort_keys=True))
    write_definition(definition, folder)
    # An address stays with its user: a folder may come from somebody else, and nothing is written where that says.
    settings = Settings(storage=url and OUTSIDE, name=name, owner=uuid.uuid4().hex)
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
    study.refuse_other_origin()
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
    ledger = open_ledger(folder, url, settings.name, definition.maximized, definition.space.variables)
    return Study(definition, folder, ledger, settings.owner)
