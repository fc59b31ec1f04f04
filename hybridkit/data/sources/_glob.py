"""Files on disk: what a path or a glob names, and how a change of a file is noticed."""

from __future__ import annotations

import errno
import glob
import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
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
    parts = Path(name).parts
    begin = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    top, rest = Path(*parts[:begin]), (*parts[begin:], *["*"] * (parts[-1] == "**"))  # folders, and the file in them
    hidden = any(part[0] == "." for part in rest)
    found = _walked(top, left_out, hidden=hidden)  # `glob` would follow links, and links may lead round in circles
    return _regular([path for path in found if _fits(path.relative_to(top).parts, rest)], left_out)


def _fits(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether the names of a path fit the parts of a glob: `**` stands for any folders, also none.

    A hidden name only fits a part that begins with a dot.
    """
    reached = {0}  # how many names the parts so far may take
    for part in parts:
        after = set(reached) if part == "**" else set[int]()
        begun = after if part == "**" else reached
        for place, name in enumerate(names):
            if place in begun and fnmatchcase(name, part) and (name[0] != "." or part[0] == "."):
                after.add(place + 1)
        reached = after
    return len(names) in reached


def files_under(
    top: Path, left_out: Counter[str], suffix: str = "", skipped: frozenset[str] = frozenset()
) -> tuple[Path, ...]:
    """The files under `top` that end in `suffix`, sorted; nothing hidden, and no folder of a name in `skipped`."""
    return _regular([path for path in _walked(top, left_out, skipped) if path.name.endswith(suffix)], left_out)


def _walked(
    top: Path, left_out: Counter[str], skipped: frozenset[str] = frozenset(), hidden: bool = False
) -> list[Path]:
    """What lies under `top`, sorted, but for folders, and for what is hidden unless `hidden`.

    Links to folders are not followed.
    """

    def unreadable(_: OSError) -> None:
        left_out["folders that cannot be read"] += 1

    found: list[Path] = []
    for folder, below, names in os.walk(top, onerror=unreadable):
        below[:] = [name for name in below if name not in skipped and (hidden or name[0] != ".")]
        left_out["links to folders"] += sum(os.path.islink(os.path.join(folder, name)) for name in below)
        found += [Path(folder, name) for name in names if hidden or name[0] != "."]
    return sorted(found)


def _regular(paths: Sequence[Path], left_out: Counter[str]) -> tuple[Path, ...]:
    """The paths that can be read without waiting: of regular files. The others are counted."""
    kept = []
    for path in paths:
        try:
            mode = path.stat().st_mode
        except OSError as error:
            nowhere = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
            left_out["links that lead nowhere" if nowhere else f"that cannot be read: {error.strerror}"] += 1
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
