"""A run for other programs, in the format of a family."""

import os
from pathlib import Path

from hybridkit.hub.family import FAMILY, Family
from hybridkit.model.loading import load
from hybridkit.registry.registry import REGISTRY
from hybridkit.system.errors import UserError


def export_run(run: Path, folder: Path, family: str = "hybridkit") -> list[Path]:
    """Write a run's newest weights to a new folder; the files' paths.

    Raises UserError where the folder exists already, the run has no valid checkpoint or the family is not known.
    """
    if os.path.lexists(folder):
        raise UserError(f"{folder} exists; name a new folder")
    chosen: Family = REGISTRY.get(FAMILY, family)()
    model = load(run)
    folder.mkdir(parents=True)
    chosen.export(model, folder)
    return sorted(folder.iterdir())
