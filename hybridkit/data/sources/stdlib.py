"""`source: stdlib`: text that every machine has."""

from __future__ import annotations

import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hybridkit.data.readers import NOT_TEXT, NotText, TextDocument, read_documents
from hybridkit.data.source import TextSource
from hybridkit.data.sources._glob import file_stamp, files_under

_LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})


class Stdlib(TextSource):
    """The running interpreter's own standard library: its Python files, sorted, without tests and other packages."""

    def paths(self) -> tuple[Path, ...]:
        """The files, in the order of their names."""
        return files_under(Path(sysconfig.get_path("stdlib")), Counter(), ".py", _LEFT_OUT)

    def fingerprint(self, field: str) -> object:
        return [file_stamp(path) for path in self.paths()]

    def documents(self, field: str, skipped: Counter[str]) -> Iterator[TextDocument]:
        for path in self.paths():
            try:
                yield from read_documents(path, field, skipped)
            except NotText:  # some files show other encodings
                skipped[NOT_TEXT] += 1
