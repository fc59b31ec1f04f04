"""Where text comes from: `data.source` of a recipe, as a stream of documents.

A document is non-empty UTF-8 in bytes, exactly as it lies on disk. A source that makes its own tokens needs none of
this: it is a `Feed` (hybridkit.data.batches).
"""

from __future__ import annotations

import fnmatch
import glob
import importlib
import os
import re
import stat
import sysconfig
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from hybridkit.data.readers import EMPTY, NOT_TEXT, NotText, field_of, read_documents
from hybridkit.system.errors import MissingExtra, UserError, nearest

_HUB = re.compile(r"hf:([^@:\[\]]+)(?:@([^:\[\]]+))?(?::([^:\[\]]+)(?:\[:(\d+)\])?(?::([^:\[\]]+))?)?")
_SHOWN = 200  # characters of a path that a message shows
_SAID = 300  # characters of another library's message
_NOT_STDLIB = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})


class TextSource(Protocol):
    """Documents in an order that does not change while `fingerprint` stays the same."""

    @property
    def skipped(self) -> Counter[str]:
        """How many files or rows were left out, by the reason, once all documents are read."""

    def fingerprint(self) -> object:
        """What JSON can hold and what differs once the documents may differ. Quick: reads no document."""

    def documents(self) -> Iterator[bytes]:
        """Every document once, in order. Raises UserError for what cannot be read, naming file and line."""


@dataclass(frozen=True)
class FileSource:
    """Files in the order given: text is one document a file; of rows (JSONL, Parquet, ...) each one, in `field`.

    `found`: the files are those of a folder or glob, of which what is not text is left out; else it is an error.
    `left_out`: what was there and is no regular file, by the reason.
    """

    paths: tuple[Path, ...]
    field: str = "text"
    found: bool = False
    left_out: Counter[str] = dataclass_field(default_factory=Counter, compare=False)
    skipped: Counter[str] = dataclass_field(default_factory=Counter, compare=False)

    def fingerprint(self) -> object:
        return [self.field, dict(self.left_out), *map(_stamp, self.paths)]

    def documents(self) -> Iterator[bytes]:
        self.skipped.clear()
        self.skipped.update(self.left_out)
        for path in self.paths:
            try:
                yield from read_documents(path, self.field, self.skipped)
            except NotText:
                if not self.found:
                    raise
                self.skipped[NOT_TEXT] += 1


@dataclass(frozen=True)
class StdlibSource:
    """The running interpreter's own standard library: its Python files, sorted, without tests and other packages."""

    skipped: Counter[str] = dataclass_field(default_factory=Counter, compare=False)

    def paths(self) -> tuple[Path, ...]:
        """The files, in the order of their names."""
        return _tree(Path(sysconfig.get_path("stdlib")), Counter(), ".py", _NOT_STDLIB)

    def fingerprint(self) -> object:
        return [_stamp(path) for path in self.paths()]

    def documents(self) -> Iterator[bytes]:
        yield from FileSource(self.paths(), found=True, skipped=self.skipped).documents()  # some show other encodings


@dataclass(frozen=True)
class HubSource:
    """A Hugging Face dataset, streamed: `hf:NAME[@REVISION][:SPLIT[:CONFIG]]`, SPLIT as `train` or `train[:1000]`.

    Its fingerprint is this text, so what was read once is not looked up again; a revision pins what is read.
    """

    spec: str
    field: str = "text"
    skipped: Counter[str] = dataclass_field(default_factory=Counter, compare=False)

    def fingerprint(self) -> object:
        return [self.spec, self.field]

    def documents(self) -> Iterator[bytes]:
        if not (parts := _HUB.fullmatch(self.spec)):
            raise UserError(
                f"data.source: {self.spec} is not hf:NAME[@REVISION][:SPLIT[:CONFIG]], SPLIT as train[:1000]"
            )
        name, revision, split, count, config = parts.groups()
        self.skipped.clear()
        try:
            datasets: Any = importlib.import_module("datasets")
        except ImportError:
            raise MissingExtra("datasets", "hf") from None
        try:
            rows = datasets.load_dataset(name, config, split=split or "train", revision=revision, streaming=True)
            for number, row in enumerate(islice(rows, int(count) if count else None), start=1):
                if document := field_of(row, self.field, f"{self.spec}, row {number}"):
                    yield document
                else:
                    self.skipped[EMPTY] += 1
        except UserError:
            raise
        except Exception as error:  # whatever the library, its readers and the network raise
            said = " ".join(str(error).split())[:_SAID] or type(error).__name__
            raise UserError(f"data.source: cannot read {self.spec}: {said}") from error


def open_source(text: str, field: str = "text") -> TextSource:
    """The source that `data.source` names: stdlib, hf:NAME, a file, a folder or a glob.

    Raises UserError where nothing is there, saying the nearest name.
    """
    if text == "stdlib":
        return StdlibSource()
    if text.startswith("hf:"):
        return HubSource(text, field)
    name, left_out = os.path.expanduser(text), Counter[str]()
    if paths := _files(name, left_out):
        return FileSource(paths, field, not os.path.isfile(name), left_out)
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    if os.path.exists(name):
        wrong = "holds no files" if os.path.isdir(name) else "is neither a file nor a folder"
        wrong += f" ({_listed(left_out)})" if left_out else ""
        raise UserError(f"data.source: {shown} {wrong}; give a text, JSONL or Parquet file, or a folder of them")
    hint = f"; did you mean `{known}`?" if (known := nearest(text, ["stdlib", "hf:"])) else ""
    raise UserError(f"data.source: no file, folder or glob {shown!r} here, nor stdlib or hf:NAME{hint}")


def _files(name: str, left_out: Counter[str]) -> tuple[Path, ...]:
    """The files that a path or glob names, in order: one, those of a folder, those that match, or none."""
    if os.path.isfile(name):
        return (Path(name),)
    if os.path.isdir(name):
        return _tree(Path(name), left_out)
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


def _tree(
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


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items())


def _stamp(path: Path) -> list[object]:
    """Path, size and times: what changes whenever somebody writes the file, even one who sets the mtime back."""
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"data.source: cannot read {path}: {error.strerror}") from error
    return [str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
