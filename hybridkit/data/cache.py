"""Cached folders. Each is built once, even by several processes, and is complete or absent, even after a kill.

A folder's name is a digest of its content. It is built under another name, synced and renamed; its manifest holds a
hash of each file. `STAMP.seen` names the folder that belongs to a source with this fingerprint. Both end with a hash of
themselves. A process looks at the hashes when it opens a folder; what is damaged counts as absent, and is built anew.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hybridkit.system.errors import UserError

MANIFEST = "manifest.json"
_WHOLE = 1 << 30  # bytes of a file that is read whole for its hash, in a second; of a larger one, stretches are
_STRETCH, _STRETCHES = 1 << 20, 512
_SEAL = "hash"  # the last key of a manifest and of what was seen: a hash of the rest


def cache_root(cache: Path | None = None) -> Path:
    """Where corpora are kept: in `cache`, $HYBRIDKIT_CACHE, $XDG_CACHE_HOME/hybridkit or ~/.cache/hybridkit.

    Raises UserError where there is no home, and nothing is named.
    """
    try:
        return (cache or _own()) / "corpora"
    except RuntimeError as error:  # no HOME, and no such user
        raise UserError("there is no home folder to keep texts in: name a folder in HYBRIDKIT_CACHE") from error


def _own() -> Path:
    """The user's folder for what can be made again. Raises RuntimeError for a user who has none."""
    if named := os.environ.get("HYBRIDKIT_CACHE"):
        return Path(named).expanduser()
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named, "hybridkit")
    return Path.home() / ".cache" / "hybridkit"


def digest_of(value: object) -> str:
    """A hash, in 32 hexadecimal digits, of a value that JSON can hold."""
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()


def valid_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a complete folder, in which every file has its recorded hash; else None."""
    about = _unsealed(folder / MANIFEST)
    try:
        whole = about is not None and all(_hash(folder / name) == known for name, known in about["files"].items())
    except OSError:
        return None
    return about if whole else None


def _hash(path: Path) -> str:
    """A hash of the file's content, of `_STRETCHES` of it where it is large, read once a process unless it changes."""
    found = path.stat()
    return _hash_once(path, found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)


@functools.lru_cache(4096)
def _hash_once(path: Path, size: int, *stamp: int) -> str:
    with path.open("rb") as file:
        if size <= _WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        found = hashlib.sha256(str(size).encode())
        for begin in range(0, size, size // _STRETCHES):
            file.seek(begin)
            found.update(file.read(_STRETCH))
    return found.hexdigest()


def _sealed(value: dict[str, Any]) -> str:
    return json.dumps({**value, _SEAL: digest_of(value)})


def _unsealed(path: Path) -> dict[str, Any] | None:
    """What `_sealed` wrote; None where that is not there, or not whole."""
    try:
        found = json.loads(path.read_bytes()) if path.is_file() else None
        whole = isinstance(found, dict) and found.pop(_SEAL, None) == digest_of(found)
    except (OSError, ValueError, RecursionError):
        return None
    return found if whole else None


class CacheEntry(NamedTuple):
    """The folder of a source, and how many files or rows were left out, by the reason."""

    folder: Path
    skipped: dict[str, int]


def find_entry(root: Path, stamp: str) -> CacheEntry | None:
    """The entry that was remembered for `stamp`, if its folder is complete. Writes nothing."""
    if (found := _unsealed(root / f"{stamp}.seen")) is None:
        return None
    seen = CacheEntry(root / found["folder"], found["skipped"])
    return seen if valid_manifest(seen.folder) else None


@contextmanager
def building_entry(root: Path, stamp: str) -> Iterator[Path]:
    """An empty folder to build in, while no other process builds for `stamp`; gone afterwards unless published.

    Waits for a process that builds already. Raises UserError where `root` cannot be written to.
    """
    part = root / f"{stamp}.part"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _lock(root / f"{stamp}.lock", fcntl.LOCK_EX):
            _sweep(root, part)
            part.mkdir()
            try:
                yield part
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cache {root}: {error.strerror or error}; HYBRIDKIT_CACHE can name another folder") from error


def publish(part: Path, folder: Path, about: dict[str, Any]) -> None:
    """Make `part` the folder, its files and their manifest (`about` and the files' hashes) on disk before its name."""
    files = {path.name: _hash(path) for path in sorted(part.iterdir())}
    (part / MANIFEST).write_text(_sealed({**about, "files": files}), encoding="utf-8")
    for path in part.iterdir():
        _fsync(path)
    _fsync(part)
    if folder.exists() and not valid_manifest(folder):  # damaged
        shutil.rmtree(folder)
    try:
        part.rename(folder)
    except OSError:
        if not valid_manifest(folder):  # else the same text was built from another source at the same time
            raise
    _fsync(folder.parent)


def remember_entry(root: Path, stamp: str, seen: CacheEntry) -> None:
    """From now on `find(root, stamp)` is `seen`. Call it while `building` for `stamp`."""
    new = root / f"{stamp}.new"
    new.write_text(_sealed({"folder": seen.folder.name, "skipped": seen.skipped}), encoding="utf-8")
    new.replace(root / f"{stamp}.seen")


@contextmanager
def _lock(path: Path, how: int) -> Iterator[None]:
    """Hold a lock that dies with this process. The file stays: removing it would let two processes lock two files."""
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, how)
        yield


def _sweep(root: Path, mine: Path) -> None:
    """Remove what killed processes left: `mine`, and every other part whose lock is free."""
    shutil.rmtree(mine, ignore_errors=True)
    for part in root.glob("*.part"):
        try:
            with _lock(part.with_suffix(".lock"), fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(part, ignore_errors=True)
        except BlockingIOError:
            continue


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
