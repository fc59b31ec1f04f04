"""A file, a folder or a glob: every `data.source` that names no other source."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Self

from hybridkit.data.readers import NOT_TEXT, NotText, TextDocument, read_documents
from hybridkit.data.source import SOURCE, TextSource
from hybridkit.data.sources._glob import counts_in_words, file_stamp, files_of
from hybridkit.registry.registry import REGISTRY
from hybridkit.system.errors import UserError, nearest

_SHOWN = 200  # characters of a path that a message shows


class PathSource(TextSource):
    """Files in the order of their names: text is one document a file; of rows (JSONL, Parquet, ...) each is one.

    Of a folder or a glob, what is not text is left out; of a single file it is an error.
    """

    path: str

    @classmethod
    def parse(cls, text: str) -> None:
        """None: a path that begins with this word is a path like any other (`of`)."""

    @classmethod
    def of(cls, path: str) -> Self:
        """The files of a path. Raises UserError where there are none, with the nearest name of a source."""
        source = cls(path=path)
        if not source.paths:
            raise UserError(source._nothing())
        return source

    @cached_property
    def _name(self) -> str:
        return os.path.expanduser(self.path)

    @cached_property
    def _found(self) -> tuple[tuple[Path, ...], Counter[str]]:
        """The files, and by the reason what was left out."""
        left_out = Counter[str]()
        return files_of(self._name, left_out), left_out

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, as they were found at the first look."""
        return self._found[0]

    def fingerprint(self, field: str) -> object:
        paths, left_out = self._found
        return [field, dict(left_out), *map(file_stamp, paths)]

    def documents(self, field: str, skipped: Counter[str]) -> Iterator[TextDocument]:
        paths, left_out = self._found
        skipped.update(left_out)
        single = os.path.isfile(self._name)
        for path in paths:
            try:
                yield from read_documents(path, field, skipped)
            except NotText:
                if single:
                    raise
                skipped[NOT_TEXT] += 1

    def _nothing(self) -> str:
        """Why there is nothing to read."""
        shown = self.path if len(self.path) <= _SHOWN else f"{self.path[:_SHOWN]}..."
        try:
            os.stat(self._name)
        except PermissionError as error:
            return f"data.source: cannot read {shown}: {error.strerror}"
        except (OSError, ValueError):  # ValueError: a NUL
            names = [name for name in REGISTRY.names(SOURCE) if name != self.name()]
            hint = f"; did you mean `{known}`?" if (known := nearest(self.path, names)) else ""
            return f"data.source: no file, folder or glob {shown!r} here, nor stdlib or hf:NAME{hint}"
        wrong = "holds no files" if os.path.isdir(self._name) else "is neither a file nor a folder"
        wrong += f" ({counts_in_words(self._found[1])})" if self._found[1] else ""
        return f"data.source: {shown} {wrong}; give a text, JSONL or Parquet file, or a folder of them"
