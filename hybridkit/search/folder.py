"""The settings file of a study's folder, which is validated since the folder may be from somebody else.

It imports no torch, so that a mistake is reported at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hybridkit.runs.manifest import Invalid, read_json
from hybridkit.system.errors import UserError
from hybridkit.system.links import check_tree
from hybridkit.system.pydantic_errors import first_error

SETTINGS = "study.json"
LOSS_VERSION = 2  # of what the objective `loss` means now
OUTSIDE = "outside"  # value of `storage`: the trials are in a storage that the user names with --storage

_Name = Annotated[str, Field(min_length=1, max_length=255)]


class StudySettings(BaseModel):
    """The study's name in its storage, and `owner`, which marks the trials that this folder's search runs.

    `loss` is the version of what the objective `loss` means: 1, the mean of a run's last 50 steps; 2, `recent_loss`.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    storage: Annotated[str, Field(max_length=4096)] | None  # None: the journal in the folder; else OUTSIDE
    name: _Name
    owner: _Name
    loss: int = 1  # studies of older versions do not say it


def holds_study(folder: Path) -> bool:
    """Whether a folder holds a study, whose settings are written last."""
    return (folder / SETTINGS).is_file()


def read_settings(folder: Path) -> StudySettings:
    """Read the settings of a study. Raises UserError where there are none, or they are damaged, or a link is found."""
    if not holds_study(folder):
        raise UserError(f"{folder} holds no study; `hybridkit search SPACE` makes one")
    check_tree(folder)
    try:
        return StudySettings.model_validate(read_json(folder / SETTINGS))
    except Invalid as error:
        raise _damaged(folder, str(error)) from error
    except ValidationError as error:
        raise _damaged(folder, first_error(error)) from error


def _damaged(folder: Path, why: str) -> UserError:
    advice = "put back the one that `hybridkit search` wrote, or begin another study with --study"
    return UserError(f"{folder / SETTINGS}: {why.encode(errors='backslashreplace').decode()}; {advice}")
