"""Reads the documents of one file. Its suffix says how: in JSONL, JSON, CSV and Parquet every row is a document.

Any other file is one document. All formats but Parquet may be compressed, with `.gz` at the end of the name.
"""

from __future__ import annotations

import codecs
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

LONG = 1 << 26  # bytes of a text file from which on it is read in parts
PART = 1 << 24  # bytes of a part
MAX_ROW = 1 << 28  # bytes of a row, and of a JSON file, which is read as a whole
MAX_RATIO = 200  # of unpacked to packed size: about 10 for text, 1,000 for a file made to fill the memory
EMPTY, NOT_TEXT = "empty", "not UTF-8 text"  # reasons why a file or row is left out


class NotText(UserError):
    """A file is not UTF-8 text."""


class LongText:
    """A text file that is never held as a whole: it is read in parts every time it is iterated.

    Raises NotText where it is not UTF-8 text, and UserError where it unpacks to more than is read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[bytes]:
        decoder, done, most = codecs.getincrementaldecoder("utf-8")(), 0, _most_unpacked(self._path)
        with _opened(self._path) as file:
            while part := file.read(PART):
                if done + len(part) > most:
                    raise _unpacks(self._path, most)
                _check(part, str(self._path), decoder, done)
                yield part
                done += len(part)
        _check(b"", str(self._path), decoder, done, final=True)


TextDocument = bytes | LongText


def read_documents(path: Path, field: str, skipped: Counter[str] | None = None) -> Iterator[TextDocument]:
    """The documents of a file, in order. Empty ones are left out, and counted in `skipped`.

    `field` is the name of the column or key that holds the text. Raises NotText for a file that is not UTF-8 text, and
    UserError, with the line or row, for rows that cannot be read.
    """
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    try:
        for document in _READERS.get(suffix, _text)(path, field):
            if document:
                yield document
            elif skipped is not None:
                skipped[EMPTY] += 1
    except (OSError, EOFError, zlib.error) as error:  # EOFError, zlib.error: a gzip file is cut off or damaged
        raise UserError(f"data.source: cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    except MemoryError as error:
        raise UserError(
            f"data.source: {path} is too large to be held in memory as one document; cut it into several files or rows"
        ) from error


def field_of(row: Any, field: str, where: str) -> bytes:
    """The text of one row, in UTF-8. Raises UserError, which begins with `where`, if `field` is missing or no text."""
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: a row is an object with a field {field!r}, not {type(row).__name__}")
    if field not in row:
        known = sorted(map(str, row))
        hint = f"; did you mean `{name}`?" if (name := nearest(field, known)) else ""
        raise UserError(f"{where}: no field {field!r} (data.field) among {', '.join(known)[:200] or 'none'}{hint}")
    if not isinstance(row[field], str):
        raise UserError(f"{where}: field {field!r} holds {type(row[field]).__name__}, not text")
    return row[field].encode("utf-8", "replace")  # JSON allows half a surrogate pair, UTF-8 does not


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file, unpacked. Raises OSError for a pipe, socket or device, which could block for ever."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("not a regular file")
        if path.suffix.lower() != ".gz":
            yield file
            return
        with gzip.open(file) as unpacked:
            yield cast("BinaryIO", unpacked)


def _most_unpacked(path: Path) -> int:
    return max(MAX_ROW, MAX_RATIO * path.stat().st_size)


def _unpacks(path: Path, most: int) -> UserError:
    return UserError(f"{path}: it unpacks to more than {most >> 20} MiB, {MAX_RATIO} times its size or more")


def _whole(path: Path, most: int | None = None) -> bytes:
    size = path.stat().st_size
    if path.suffix.lower() == ".gz":
        most = min(most or 1 << 62, _most_unpacked(path))
    elif size > (most or size):
        raise UserError(f"{path}: more than {MAX_ROW >> 20} MiB in one JSON value; give each row its own line (.jsonl)")
    with _opened(path) as file:
        raw = file.read() if most is None else file.read(most + 1)
    if most is not None and len(raw) > most:
        raise _unpacks(path, most)
    return raw


def _text(path: Path, field: str) -> Iterator[TextDocument]:
    if path.suffix.lower() != ".gz" and path.stat().st_size > LONG:
        for _ in (long := LongText(path)):  # a file that is no text is left out as a whole
            pass
        yield long
        return
    raw = _whole(path)
    _check(raw, str(path), codecs.getincrementaldecoder("utf-8")(), 0, final=True)
    yield raw


def _jsonl(path: Path, field: str) -> Iterator[bytes]:
    with _opened(path) as file:
        most, done = _most_unpacked(path), 0
        for number, line in enumerate(iter(lambda: file.readline(MAX_ROW), b""), start=1):
            done += len(line)
            if len(line) == MAX_ROW or done > most:
                raise UserError(
                    f"{path}:{number}: a row of more than {MAX_ROW >> 20} MiB, or a file that unpacks to more than"
                    f" {MAX_RATIO} times its size, is not read"
                )
            if line.isspace():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}:{number}: not a line of JSON: {error}") from error
            yield field_of(row, field, f"{path}:{number}")


def _json(path: Path, field: str) -> Iterator[bytes]:
    """A list of rows, a single row, or a row in each line: many files named .json are of the last kind."""
    raw = _whole(path, MAX_ROW)
    try:
        held = json.loads(raw)
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
        for _ in LongText(path):  # a file that is no text is left out as a whole
            pass
        csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW))  # of the whole process, so it is never made smaller
        with _opened(path) as file, io.TextIOWrapper(file, "utf-8-sig", "replace", newline="") as text:
            try:
                table = csv.DictReader(text, delimiter=delimiter, strict=True)
                for number, row in enumerate(table, start=1):
                    where = f"{path}, row {number}"
                    if surplus := row.get(table.restkey):
                        head = len(table.fieldnames or ())
                        raise UserError(
                            f"{where}: {head + len(surplus)} cells, and the head has {head}; quote the text where it"
                            f" holds {delimiter!r}"
                        )
                    yield field_of(row, field, where)
            except csv.Error as error:
                raise UserError(f"{path}: not a table that can be read: {error}") from error

    return rows


def _parquet(path: Path, field: str) -> Iterator[bytes]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("pyarrow", "hf") from None
    number = 0
    try:
        with _opened(path), pyarrow.parquet.ParquetFile(path) as file:
            known = file.schema_arrow.names
            if field not in known:
                field_of(dict.fromkeys(known), field, str(path))
            rows = (row for batch in file.iter_batches(columns=[field]) for row in _column(batch, field))
            for number, row in enumerate(rows, start=1):
                yield field_of({field: row.as_py()}, field, f"{path}, row {number}")
    except UnicodeDecodeError as error:
        where = f", row {number}: field {field!r} holds" if number else ": a name in it is"
        raise UserError(f"{path}{where} text that is not UTF-8; write it again, in UTF-8") from error
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: not a Parquet file that can be read: {error}") from error


def _column(batch: Any, field: str) -> Any:
    """The values of a field, of the last one where several have its name."""
    return batch.column(batch.schema.get_all_field_indices(field)[-1])


def _check(raw: bytes, where: str, decoder: codecs.IncrementalDecoder, begin: int, final: bool = False) -> None:
    """Raises NotText unless `raw`, which begins at a byte of the text, goes on as text: UTF-8 without NUL bytes."""
    held = len(decoder.getstate()[0])  # bytes of a character that the part before has begun
    try:
        decoder.decode(raw, final)
    except UnicodeDecodeError as error:
        at = begin - held + error.start
        raise NotText(f"{where}: not UTF-8 text (byte {at}); convert it first") from error
    if (place := raw.find(0)) >= 0:
        raise NotText(f"{where}: binary data (byte {begin + place} is NUL), not text")


_READERS = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".csv": _table(","),
    ".tsv": _table("\t"),
}
