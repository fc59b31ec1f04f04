"""The documents of one file, by its suffix: JSONL (also gzipped) and Parquet a row each, anything else as a whole."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hybridkit.errors import MissingExtra, UserError, nearest

MAX_ROW = 1 << 28  # bytes of a line of JSONL
MAX_RATIO = 200  # of what a file unpacks to and its own size; text comes to some 10, and a bomb to 1,000


def read(path: Path, field: str) -> Iterator[bytes]:
    """The documents of a file, in order, empty ones left out; `field` names the text in a row.

    Raises UserError, with the line or row, for what is not UTF-8 text, not JSON, or lacks the field.
    """
    name = path.name.lower()
    try:
        if name.endswith((".jsonl", ".jsonl.gz")):
            documents = _jsonl(path, field)
        elif name.endswith(".parquet"):
            documents = _parquet(path, field)
        else:
            documents = iter([_checked(path.read_bytes(), str(path))])
        yield from filter(None, documents)
    except (OSError, EOFError, zlib.error) as error:  # the last two: a gzip file cut off, or damaged
        raise UserError(f"data.source: cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


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


def _jsonl(path: Path, field: str) -> Iterator[bytes]:
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        most, read = max(MAX_ROW, MAX_RATIO * path.stat().st_size), 0
        for number, line in enumerate(iter(lambda: file.readline(MAX_ROW), b""), start=1):
            read += len(line)
            if len(line) == MAX_ROW or read > most:
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


def _parquet(path: Path, field: str) -> Iterator[bytes]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("pyarrow", "hf") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
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
        raise UserError(f"{where}: not UTF-8 text (byte {error.start}); convert it first") from error
    if (place := raw.find(0)) >= 0:
        raise UserError(f"{where}: binary data (byte {place} is NUL), not text")
    return raw
