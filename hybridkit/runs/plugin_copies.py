"""The plug-ins that a run was trained with: its own copies in `plugins/`, and their hashes in its manifests.

A copy is executed only if its hash is the recorded one and the user trusts it (`registry.trust`). Files of a second,
third ... folder of plug-ins stand in `plugins/2/`, `plugins/3/` ...
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hybridkit.registry.plugin_package import loaded_hash, sha256, sources
from hybridkit.registry.registry import REGISTRY, Registry
from hybridkit.registry.trust import trusted
from hybridkit.runs.manifest import Manifest, stamp
from hybridkit.system.errors import UserError

if TYPE_CHECKING:
    from hybridkit.block import Entry

FOLDER = "plugins"
_MAX_FILES, _MAX_BYTES = 1000, 1 << 24  # of copies that no manifest lists


class RunWithPlugins(Protocol):
    """The part of a run folder that is used here (hybridkit.runs.run.Run)."""

    path: Path
    checkpoint_folder: Path

    def record(self) -> Manifest | None:
        """The newest manifest that can be read."""


def code_of(entries: Iterable[Entry], *others: object) -> dict[str, bytes]:
    """The files of the plug-ins that a stack uses, as they were executed, with what they import beside them.

    `others`: what else a run uses that may come from a plug-in, such as its optimizer.
    """
    from hybridkit.block import window_of

    blocks = [block for entry in entries for block in entry.branches]
    parts = [*(part for block in blocks for part in (block, window_of(block)) if part), *others]
    return sources(type(part).__module__ for part in parts)


def hashes(code: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 by name."""
    return {name: sha256(raw) for name, raw in code.items()}


def write_copies(run: RunWithPlugins, code: Mapping[str, bytes]) -> None:
    """Put the copies into a run that begins, in place of any others. Raises OSError."""
    folder = run.path / FOLDER
    if folder.exists():
        shutil.rmtree(folder)
    for name, raw in code.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)


def recorded(run: RunWithPlugins) -> dict[str, str]:
    """SHA-256 of every file that a run was trained with, by its name in `plugins/`; none for runs that keep no record.

    Before the first checkpoint: of the files that are there. Raises UserError where these are too many or too large.
    """
    if manifest := run.record():
        return manifest.code or {}
    folder = run.path / FOLDER
    if not run.checkpoint_folder.is_dir():  # no run began here
        return {}
    files = sorted(path for path in folder.rglob("*.py") if path.is_file() and path.stem.isidentifier())
    if len(files) > _MAX_FILES or sum(path.stat().st_size for path in files) > _MAX_BYTES:
        raise UserError(f"{folder} holds more than plug-ins; name those of the run with --plugin")
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()) for path in files}


def refuse_changed(origin: str, was: Mapping[str, str], now: Mapping[str, str], remedy: str) -> None:
    """Raises UserError for the first file of plug-ins whose hashes in `was` and `now` differ, naming both."""
    before, after = _flat(was), _flat(now)
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            old, new = (" and ".join(sorted(found.get(name, ()))) for found in (before, after))
            said = f"the plug-in {name} is another one: sha256 {old} there, {new} now"
            if not new:
                said = f"it uses the plug-in {name} (sha256 {old}), and nothing names that now"
            elif not old:
                said = f"it does not use the plug-in {name} (sha256 {new}), which is named now"
            raise UserError(f"{origin}: {said}; {remedy}")


def registry_of(run: RunWithPlugins, names: Collection[str]) -> Registry:
    """The registry for a pattern with these `names` in a run: the usual one, and the run's own plug-ins.

    A plug-in that --plugin names is taken in place of the run's copy, if it is the same.

    Raises UserError where a given plug-in is another one than the run's, and where a copy is not the recorded one or
    is not trusted.
    """
    code = recorded(run)
    if not code:
        return REGISTRY
    registry = REGISTRY.copy()
    given = {path.stem: path for path in REGISTRY.plugins}
    for place, files in _folders(code).items():
        folder = (run.path / FOLDER / place).resolve()
        own = []
        for name in (name for name in files if "/" not in name and Path(name).stem in names):
            if path := given.get(Path(name).stem):
                _refuse_other(run, path, files, run.path / FOLDER / place / name)
            else:
                own.append(name)
        if own:
            _check_copies(run, run.path / FOLDER / place, files, own[0])
        for name in own:
            registry.add(folder / name, files)
    return registry


def _folders(code: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The files of each folder of plug-ins: by the name of its place in `plugins/`, empty for the first."""
    found: dict[str, dict[str, str]] = {}
    for name, digest in code.items():
        head, _, rest = name.partition("/")
        place, inside = (head, rest) if head.isdecimal() else ("", name)
        found.setdefault(place, {})[inside] = digest
    return found


def _flat(code: Mapping[str, str]) -> dict[str, set[str]]:
    """Hashes by name, whichever folder a file stands in."""
    found: dict[str, set[str]] = {}
    for files in _folders(code).values():
        for name, digest in files.items():
            found.setdefault(name, set()).add(digest)
    return found


def _refuse_other(run: RunWithPlugins, given: Path, files: Mapping[str, str], copy: Path) -> None:
    """Raises UserError where a plug-in that the user named, or what stands beside it, is not the run's."""
    for name, digest in files.items():
        path = given.parent / name
        if path.is_file() and (now := loaded_hash(path)) != digest:
            raise UserError(
                f"{path} is not what {run.path} was trained with: sha256 {now} now, {digest} in the run;"
                f" leave --plugin out or name the run's own copy, --plugin {copy}"
            )


def _check_copies(run: RunWithPlugins, folder: Path, files: Mapping[str, str], main: str) -> None:
    """Raises UserError unless all copies are what the run records, and trusted."""
    strange = []
    for name, digest in files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise UserError(f"{path}, a plug-in of the run, is missing; name it with --plugin (sha256 {digest})")
        if (now := stamp(path).sha256) != digest:
            raise UserError(
                f"{path} is not what the run was trained with: sha256 {now} now, {digest} in the run's record;"
                " put it back, or name the right file with --plugin"
            )
        if not trusted(digest):
            strange.append(f"{path} (sha256 {digest})")
    if strange:
        raise UserError(
            f"{run.path} brings code that you have not trusted yet: {', '.join(strange)}."
            f" Read it; to trust it, add --plugin {folder / main}"
        )
