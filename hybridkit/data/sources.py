"""Where text comes from: `data.source` of a recipe, as a stream of documents.

A document is non-empty UTF-8 in bytes, exactly as it lies on disk. A source that makes its own tokens needs none of
this: it is a `Feed` (hybridkit.data.batches).
"""

from __future__ import annotations

import glob
import os
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from hybridkit.data.files import field_of, read
from hybridkit.errors import MissingExtra, UserError, nearest

_HUB = re.compile(r"hf:([^@:\[\]]+)(?:@([^:\[\]]+))?(?::([^:\[\]]+)(?:\[:(\d+)\])?(?::([^:\[\]]+))?)?")
_SHOWN = 200  # characters of a path that a message shows
_NOT_STDLIB = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})


class TextSource(Protocol):
    """Documents in an order that does not change while `fingerprint` stays the same."""

    def fingerprint(self) -> object:
        """What JSON can hold and what differs once the documents may differ. Quick: reads no document."""

    def documents(self) -> Iterator[bytes]:
        """Every document once, in order. Raises UserError for what cannot be read, naming file and line."""


@dataclass(frozen=True)
class Files:
    """Files in the order given: text is one document a file; a JSONL or Parquet file one a row, in `field`."""

    paths: tuple[Path, ...]
    field: str = "text"

    def fingerprint(self) -> object:
        return [self.field, *map(_stamp, self.paths)]

    def documents(self) -> Iterator[bytes]:
        for path in self.paths:
            yield from read(path, self.field)


@dataclass(frozen=True)
class Stdlib:
    """The running interpreter's own standard library: its Python files, sorted, without tests and other packages."""

    def paths(self) -> tuple[Path, ...]:
        """The files, in the order of their names."""
        return _tree(Path(sysconfig.get_path("stdlib")), ".py", _NOT_STDLIB)

    def fingerprint(self) -> object:
        return [_stamp(path) for path in self.paths()]

    def documents(self) -> Iterator[bytes]:
        for path in self.paths():
            try:
                yield from read(path, "")
            except UserError:  # a few files show other encodings on purpose
                continue


@dataclass(frozen=True)
class Hub:
    """A Hugging Face dataset, streamed: `hf:NAME[@REVISION][:SPLIT[:CONFIG]]`, SPLIT as `train` or `train[:1000]`.

    Its fingerprint is this text, so what was read once is not looked up again; a revision pins what is read.
    """

    spec: str
    field: str = "text"

    def fingerprint(self) -> object:
        return [self.spec, self.field]

    def documents(self) -> Iterator[bytes]:
        if not (parts := _HUB.fullmatch(self.spec)):
            raise UserError(
                f"data.source: {self.spec} is not hf:NAME[@REVISION][:SPLIT[:CONFIG]], SPLIT as train[:1000]"
            )
        name, revision, split, count, config = parts.groups()
        try:
            import datasets
        except ImportError:
            raise MissingExtra("datasets", "hf") from None
        try:
            rows: Any = datasets.load_dataset(name, config, split=split or "train", revision=revision, streaming=True)
            for number, row in enumerate(islice(rows, int(count) if count else None), start=1):
                if document := field_of(row, self.field, f"{self.spec}, row {number}"):
                    yield document
        except UserError:
            raise
        except (OSError, ValueError) as error:
            raise UserError(f"data.source: cannot read {self.spec}: {error}") from error


def open_source(text: str, field: str = "text") -> TextSource:
    """The source that `data.source` names: stdlib, hf:NAME, a file, a folder or a glob.

    Raises UserError where nothing is there, saying the nearest name.
    """
    if text == "stdlib":
        return Stdlib()
    if text.startswith("hf:"):
        return Hub(text, field)
    name = os.path.expanduser(text)
    if paths := _files(name):
        return Files(paths, field)
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    if os.path.exists(name):
        wrong = "holds no files" if os.path.isdir(name) else "is neither a file nor a folder"
        raise UserError(f"data.source: {shown} {wrong}; give a text, JSONL or Parquet file, or a folder of them")
    hint = f"; did you mean `{known}`?" if (known := nearest(text, ["stdlib", "hf:"])) else ""
    raise UserError(f"data.source: no file, folder or glob {shown!r} here, nor stdlib or hf:NAME{hint}")


def _files(name: str) -> tuple[Path, ...]:
    """The files that a path or glob names, in order: one, those of a folder, those that match, or none."""
    if os.path.isfile(name):
        return (Path(name),)
    if os.path.isdir(name):
        return _tree(Path(name))
    if "\0" in name:  # which no path holds, and glob chokes on
        return ()
    return tuple(sorted(Path(found) for found in glob.glob(name, recursive=True) if os.path.isfile(found)))


def _tree(top: Path, suffix: str = "", skipped: frozenset[str] = frozenset()) -> tuple[Path, ...]:
    """The files under `top` that end in `suffix`, sorted; nothing hidden, and no folder of a name in `skipped`."""
    found: list[Path] = []
    for folder, below, names in os.walk(top):
        below[:] = [name for name in below if name not in skipped and not name.startswith(".")]
        found += [Path(folder, name) for name in names if name.endswith(suffix) and not name.startswith(".")]
    return tuple(sorted(found))


def _stamp(path: Path) -> list[object]:
    """Path, size and times: what changes whenever somebody writes the file, even one who sets the mtime back."""
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"data.source: cannot read {path}: {error.strerror}") from error
    return [str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
