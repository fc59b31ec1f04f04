"""A study: its folder, its trials, and what to try next."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from hybridkit.errors import UserError
from hybridkit.recipe import run_name
from hybridkit.search.candidate import Candidate, Workshop
from hybridkit.search.definition import SPACE, Definition, read_definition, write_definition
from hybridkit.search.figures import EVAL, METRICS, Unknown, look_up
from hybridkit.search.hunt import Counts, Found, Hunt
from hybridkit.search.ledger import Ledger, open_ledger
from hybridkit.search.records import Record
from hybridkit.search.samplers import Proposal, Proposer, distribution
from hybridkit.search.worker import Outcome
from hybridkit.train.files import write_whole

SETTINGS = "study.json"
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

    def begin(self) -> Record | None:
        """Begin the next trial; None where the study has all it shall have, or nothing new is proposed (`ended`)."""
        records = self.records()
        if self.ended or len(records) >= self.wanted:
            return None
        hunt = Hunt(self.workshop, records)
        found = hunt.find(proposals(self.definition, records, hunt.counts.proposals))
        self.ledger.add_aliases(hunt.aliases)
        self.ledger.count(hunt.counts)
        if found is None:
            self.ended = f"nothing new within the budget in {hunt.counts.proposals:,} proposals"
            return None
        return self._write(found, hunt.counts)

    def end(self, record: Record, outcome: Outcome) -> None:
        """Close a trial with what its worker says."""
        if outcome.error is not None:
            return self.fail(record, outcome.error)
        try:
            candidate = self.candidate(record)
            values = [
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
        about = {"pattern": candidate.pattern, "key": candidate.key, "costs": costs, "memory": found.memory}
        number = self.ledger.begin(candidate.params, space, owner=self._owner, **about, **counts._asdict())
        records = self.records()
        if any(other.key == candidate.key for other in records[:number]):  # another machine was quicker
            self.fail(records[number], "another trial tries the same")
            return self.begin()
        return records[number]

    def _figure(self, candidate: Candidate, found: Mapping[str, Any], name: str) -> float:
        return look_up(found, name) if name in METRICS or name.startswith(EVAL) else candidate.costs(name)


def proposals(definition: Definition, records: Sequence[Record], first: int) -> Iterator[Proposal]:
    """What may be tried next, from proposal number `first` on, given the trials so far."""
    file, space = definition.file, definition.space
    if file.sampler == "grid":
        return (Proposal(number, params, {}) for number, params in enumerate(space.grid()) if number >= first)
    proposer = Proposer(file.sampler, space.variables, definition.maximized, file.trials)
    return islice(proposer.stream(file.seed, first, records), PATIENCE)


def create(definition: Definition, folder: Path, url: str | None) -> Study:
    """Begin a study in a folder that holds none.

    Raises UserError, before anything is written, for what is wrong, a budget that nothing satisfies included.
    """
    workshop = Workshop(definition)
    workshop.check()
    hunt = Hunt(workshop, [])
    if hunt.find(proposals(definition, [], 0)) is None:
        raise UserError(hunt.complaint())
    folder.mkdir(parents=True, exist_ok=True)
    name = run_name(definition.path)
    open_ledger(folder, url, name, definition.maximized).claim(json.dumps(definition.fixed(), sort_keys=True))
    write_definition(definition, folder)
    settings = {"storage": url, "name": name, "owner": uuid.uuid4().hex}
    write_whole(folder / SETTINGS, json.dumps(settings).encode())
    return open_study(folder)


def resume(definition: Definition, folder: Path) -> Study:
    """Go on with a study; more trials may be asked for. Raises UserError where anything else has changed."""
    begun = open_study(folder).definition
    was, now = begun.fixed(), definition.fixed()
    if changed := [name for name in was if was[name] != now[name]]:
        raise UserError(
            f"{folder} was begun with another {', '.join(changed)}; only trials may change on --resume. "
            "Use the same space file, or name another folder with --study"
        )
    write_definition(definition, folder)
    return open_study(folder)


def open_study(folder: Path) -> Study:
    """The study in a folder. Raises UserError where there is none."""
    if not holds_study(folder):
        raise UserError(f"{folder} holds no study; `hybridkit search SPACE` makes one")
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    definition = read_definition(folder / SPACE)
    ledger = open_ledger(folder, settings["storage"], settings["name"], definition.maximized)
    return Study(definition, folder, ledger, settings["owner"])


def holds_study(folder: Path) -> bool:
    """Whether a folder holds a study: its settings are the last thing that is written."""
    return (folder / SETTINGS).is_file()
