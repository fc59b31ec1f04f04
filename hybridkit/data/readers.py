"""The documents of one file, by its suffix: of rows (JSONL, JSON, CSV, Parquet) each one, of anything else the whole.

A `.gz` may follow every suffix but Parquet's.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import stat
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from hybridkit.system.errors import MissingExtra, UserError, nearest

MAX_ROW = 1 << 28  # bytes of a row, and of a JSON file, which is read as a whole
MAX_RATIO = 200  # of what a file unpacks to and its own size; text comes to some 10, and a bomb to 1,000
EMPTY, NOT_TEXT = "empty", "not UTF-8 text"  # reasons for which something is left out


class NotText(UserError):
    """A file that holds something else than UTF-8 text."""


def read_documents(path: Path, field: str, skipped: Counter[str] | None = None) -> Iterator[bytes]:
    """The documents of a file, in order, empty ones left out and counted; `field` names the text in a row.

    Raises NotText for what is not UTF-8 text, UserError, with the line or row, for what has no rows of text.
    """
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    try:
        for document in _READERS.get(suffix, _text)(path, field):
            if document:
                yield document
            elif skipped is not None:
                skipped[EMPTY] += 1
    except (OSError, EOFError, zlib.error) as error:  # the last two: a gzip file cut off, or damaged
        raise UserError(f"data.source: cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    except MemoryError as error:
        raise UserError(
            f"data.source: {path} is too large to be held in memory as one document; cut it into several files or rows"
        ) from error


def field_of(row: Any, field: str, where: str) -> bytes:
    """The text of one row, encoded. Raises UserError, beginning with `where`, if it has none under `field`."""
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: a row is an object with a field {field!r}, not {type(row).__name__}")
    if field not in row:
        known = sorted(map(str, row))
        hint = f"; did you mean `{name}`?" if (name := nearest(field, known)) else ""
        raise UserError(f"{where}: no field {field!r} (data.field) among {', '.join(known)[:200] or 'none'}{hint}")
    if not isinstance(row[field], str):
        raise UserError(f"{where}: field {field!r} holds {type(row[field]).__name__}, not text")
    return row[field].encode("utf-8", "replace")  # JSON can spell half a surrogate pair, which UTF-8 cannot


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file, unpacked. Raises OSError for a pipe, socket or device instead of waiting for it."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("not a regular file")
        if path.suffix.lower() != ".gz":
            yield file
            return
        with gzip.open(file) as unpacked:
            yield cast("BinaryIO", unpacked)


def _whole(path: Path, most: int | None = None) -> bytes:
    size = path.stat().st_size
    if path.suffix.lower() == ".gz":
        most = min(most or 1 << 62, max(MAX_ROW, MAX_RATIO * size))
    elif size > (most or size):
        raise UserError(f"{path}: more than {MAX_ROW >> 20} MiB in one JSON value; write a row a line (.jsonl)")
    with _opened(path) as file:
        raw = file.read() if most is None else file.read(most + 1)
    if most is not None and len(raw) > most:
        raise UserError(f"{path}: it unpacks to more than {most >> 20} MiB, {MAX_RATIO} times its size or more")
    return raw


def _text(path: Path, field: str) -> Iterator[bytes]:
    yield _checked(_whole(path), str(path))


def _jsonl(path: Path, field: str) -> Iterator[bytes]:
    with _opened(path) as file:
        most, done = max(MAX_ROW, MAX_RATIO * path.stat().st_size), 0
        for number, line in enumerate(iter(lambda: file.readline(MAX_ROW), b""), start=1):
            done += len(line)
            if len(line) == MAX_ROW or done > most:
                raise UserError(
                    f"{path}:{number}: a row of more than {MAX_ROW >> 20} MiB, or a file that unpacks to more than"
                    f" {MAX_RATIO} times its size, is no text"
                )
            if line.isspace():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}:{number}: not a line of JSON: {error}") from error
            yield field_of(row, field, f"{path}:{number}")


def _json(path: Path, field: str) -> Iterator[bytes]:
    """A list of rows, a single row, or lines of rows, as many files of this name hold."""
    try:
        held = json.loads(_whole(path, MAX_ROW))
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Extra data"):
            raise UserError(f"{path}: not JSON: {error}") from error
        yield from _jsonl(path, field)
        return
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    if not isinstance(held, list):
        yield field_of(held, field, str(path))
        return
    for number, row in enumerate(held, start=1):
        yield field_of(row, field, f"{path}, row {number}")


def _table(delimiter: str) -> Callable[[Path, str], Iterator[bytes]]:
    def rows(path: Path, field: str) -> Iterator[bytes]:
        with _opened(path) as file, io.TextIOWrapper(file, "utf-8", newline="") as text:
            try:
                for number, row in enumerate(csv.DictReader(text, delimiter=delimiter, strict=True), start=1):
                    yield field_of(row, field, f"{path}, row {number}")
            except UnicodeDecodeError as error:
                raise NotText(f"{path}: not UTF-8 text ({error.reason}); convert it first") from error
            except csv.Error as error:
                raise UserError(f"{path}: not a table that can be read: {error}") from error

    return rows


def _parquet(path: Path, field: str) -> Iterator[bytes]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("pyarrow", "hf") from None
    try:
        with _opened(path), pyarrow.parquet.ParquetFile(path) as file:
            known = file.schema_arrow.names
            if field not in known:
                field_of(dict.fromkeys(known), field, str(path))
            rows = (row for batch in file.iter_batches(columns=[field]) for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield field_of(row, field, f"{path}, row {number}")
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: not a Parquet file that can be read: {error}") from error


def _checked(raw: bytes, where: str) -> bytes:
    """The bytes themselves, if they are text: UTF-8, without a NUL."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raise NotText(f"{where}: not UTF-8 text (byte {error.start}); convert it first") from error
    if (place := raw.find(0)) >= 0:
        raise NotText(f"{where}: binary data (byte {place} is NUL), not text")
    return raw


_READERS = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".csv": _table(","),
    ".tsv": _table("\t"),
}
