"""Writing a picture to a file that the user names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hybridkit.errors import UserError
from hybridkit.run import refuse_links

if TYPE_CHECKING:  # half a second
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")


def check(file: Path) -> None:
    """Raise UserError, before anything is computed, unless a picture can be written to the file."""
    if file.suffix not in FORMATS:
        raise UserError(f"--plot {file}: the name must end in {' or '.join(FORMATS)}")
    place = file if file.exists() else file.parent
    if file.is_dir() or not os.access(place, os.W_OK):
        raise UserError(f"--plot {file}: cannot be written; name a file in a folder that can be")
    refuse_links([file])


def save(figure: Figure, file: Path) -> None:
    """Write a figure. Raises UserError where the file cannot be written."""
    try:
        figure.savefig(file, dpi=150)
    except OSError as error:
        raise UserError(f"--plot {file}: {error.strerror}; name a file in a folder that can be written") from error
