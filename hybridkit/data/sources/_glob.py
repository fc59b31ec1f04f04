"""Files on disk: what a path or a glob names, and how a change of a file is noticed."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from hybridkit.system.errors import UserError


def files_of(name: str, left_out: Counter[str]) -> tuple[Path, ...]:
    """The files that a path or glob names, in order: one, those of a folder, those that match, or none."""
    if os.path.isfile(name):
        return (Path(name),)
    if os.path.isdir(name):
        return files_under(Path(name), left_out)
    if "\0" in name or not glob.has_magic(name):  # no path holds a NUL, and glob chokes on it
        return ()
    if "**" not in name:
        return _regular(sorted(Path(found) for found in glob.glob(name) if not os.path.isdir(found)), left_out)
    top = _before_magic(name)  # `glob` would follow links, and links may lead round in circles
    matches = re.compile(_pattern(name)).fullmatch
    return _regular([path for path in _walked(top, left_out) if matches(str(path))], left_out)


def _before_magic(name: str) -> Path:
    parts = Path(name).parts
    return Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])


def _pattern(name: str) -> str:
    """A glob as a regular expression of whole paths: `**` stands for any folders, also none."""
    parts = Path(name).parts
    out = ""
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        if part == "**":
            out += ".*" if last else "(?:.*/)?"
        else:
            inside = fnmatch.translate(part)[len("(?s:") : -len(")\\Z")].replace(".*", "[^/]*")
            out += "/" if part == "/" else inside + ("" if last else "/")
    return out


def files_under(
    top: Path, left_out: Counter[str], suffix: str = "", skipped: frozenset[str] = frozenset()
) -> tuple[Path, ...]:
    """The files under `top` that end in `suffix`, sorted; nothing hidden, and no folder of a name in `skipped`."""
    return _regular([path for path in _walked(top, left_out, skipped) if path.name.endswith(suffix)], left_out)


def _walked(top: Path, left_out: Counter[str], skipped: frozenset[str] = frozenset()) -> list[Path]:
    """What lies under `top`, sorted, but for folders and what is hidden; links to folders are not followed."""

    def unreadable(_: OSError) -> None:
        left_out["folders that cannot be read"] += 1

    found: list[Path] = []
    for folder, below, names in os.walk(top, onerror=unreadable):
        below[:] = [name for name in below if name not in skipped and not name.startswith(".")]
        left_out["links to folders"] += sum(os.path.islink(os.path.join(folder, name)) for name in below)
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(found)


def _regular(paths: Sequence[Path], left_out: Counter[str]) -> tuple[Path, ...]:
    """The paths that can be read without waiting: of regular files. The others are counted."""
    kept = []
    for path in paths:
        try:
            mode = path.stat().st_mode
        except OSError:
            left_out["links that lead nowhere"] += 1
            continue
        if stat.S_ISREG(mode):
            kept.append(path)
        else:
            left_out["pipes, sockets or devices"] += 1
    for reason in [reason for reason, count in left_out.items() if not count]:
        del left_out[reason]
    return tuple(kept)


def counts_in_words(counts: Mapping[str, int]) -> str:
    """Counts in words: `2 links to folders, 1 empty`."""
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items())


def file_stamp(path: Path) -> list[object]:
    """Path, size, times and inode. Every write changes one of these, even if the mtime is set back afterwards.

    Raises UserError for a file that cannot be read.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(f"data.source: cannot read {path}: {error.strerror}") from error
    return [str(path.absolute()), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
