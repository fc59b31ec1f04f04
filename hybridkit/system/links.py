"""Folders that somebody else may have made: nothing is written through a symbolic link, into a pipe or a device."""

import os
from collections.abc import Iterable
from pathlib import Path

from hybridkit.system.errors import UserError

REMOVE = "remove it"  # what to do with a link in a folder that the user has made for this program


def refuse_links(paths: Iterable[Path], remedy: str = REMOVE) -> None:
    """Raises UserError where one of `paths`, which are about to be written, is a symbolic link.

    Otherwise the author of a folder could make the program overwrite another file of the user.
    """
    for path in paths:
        if path.is_symlink():
            raise UserError(f"{path} is a symbolic link, through which nothing is written; {remedy}")


def check_tree(folder: Path, remedy: str = REMOVE) -> None:
    """Raises UserError where `folder` holds anything but files and folders, at any depth: a link, a pipe, a device.

    For folders that are about to be written into, which somebody else may have made.
    """
    left = [folder]
    while left:
        for entry in _entries(left.pop()):
            path = Path(entry.path)
            if entry.is_symlink():
                refuse_links([path], remedy)
            elif entry.is_dir(follow_symlinks=False):
                left.append(path)
            elif not entry.is_file(follow_symlinks=False):
                raise UserError(f"{path} is neither a file nor a folder; {remedy}")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:  # another process has removed it since
        return []
