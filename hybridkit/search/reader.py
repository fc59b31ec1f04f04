"""A study as it is read: its folder, definition and trials. No torch is needed, for no candidate is built."""

from __future__ import annotations

from pathlib import Path

from hybridkit.runs.run import Run
from hybridkit.search.definition import SPACE, Definition, read_definition
from hybridkit.search.folder import read_settings
from hybridkit.search.sampler import SearchGoal, choose_sampler
from hybridkit.search.storage import TrialStorage, open_storage
from hybridkit.search.trials import Trial
from hybridkit.system.errors import UserError


class StudyReader:
    """Reads a study: its definition, its folder, and the storage of its trials."""

    def __init__(self, definition: Definition, folder: Path, storage: TrialStorage, owner: str) -> None:
        self.definition, self.folder, self.storage, self.owner = definition, folder, storage, owner

    @property
    def num_trials(self) -> int:
        """The number of trials of the finished study: those asked for, or all points of a grid."""
        return choose_sampler(self.definition.file.sampler).count(goal_of(self.definition))

    def trials(self) -> list[Trial]:
        """All trials so far."""
        return self.storage.trials()

    def trial_folder(self, number: int) -> Path:
        """The folder of a trial's runs."""
        return self.folder / "trials" / f"{number:04d}"

    def run(self, trial: Trial, seed: int) -> Run:
        """The run of a trial's seed, from 0."""
        return Run(self.trial_folder(trial.number) / f"seed-{seed}")


def goal_of(definition: Definition) -> SearchGoal:
    """What a definition asks of its sampler."""
    file = definition.file
    return SearchGoal(definition.space, definition.maximized, file.trials, file.seed)


def open_reader(folder: Path, url: str | None = None) -> StudyReader:
    """The study in a folder; nothing is written. `url`: the storage of its trials, if it was begun with one.

    Raises UserError where there is none, or it cannot be read.
    """
    settings = read_settings(folder)
    if url and not settings.storage:
        raise UserError(f"--storage: {folder} holds its trials itself; leave it out")
    if settings.storage and not url:
        raise UserError(f"{folder} keeps its trials in a database outside the folder; give its address with --storage")
    definition = read_definition(folder / SPACE)
    storage = open_storage(folder, url, settings.name, definition.maximized, definition.space.variables)
    return StudyReader(definition, folder, storage, settings.owner)
