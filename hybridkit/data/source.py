"""The kind "source": what `data.source` of a recipe names. One file of `data/sources/`, or a plug-in, holds one class.

A source is text (`TextSource`), or makes the sequences itself (`FeedSource`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

from hybridkit.data.feed import Feed
from hybridkit.data.named import NamedSpec, read_named
from hybridkit.data.readers import TextDocument
from hybridkit.registry.kinds import Kind
from hybridkit.registry.registry import REGISTRY, Registry
from hybridkit.system.errors import UserError

SOURCE = Kind("source", "hybridkit.data.sources")
_FILES = "files"  # the source of a text that names no other


class Source(NamedSpec, ABC):
    """Where training data comes from."""

    kind: ClassVar[str] = SOURCE.name
    key: ClassVar[str] = "data.source"


class TextSource(Source, ABC):
    """A stream of documents: non-empty UTF-8 in bytes, in an order that depends on `fingerprint` alone."""

    def fingerprint(self, field: str) -> object:
        """A value for JSON that differs whenever the documents may differ. It is quick: it reads no document.

        By default the text that names the source, and the hash of its plug-in.
        """
        return [str(self), field, dict(self.code())]

    @abstractmethod
    def documents(self, field: str, skipped: Counter[str]) -> Iterator[TextDocument]:
        """Every document once; a `LongText` gives one that is never held as a whole.

        `field` is data.field, for sources of rows.

        Counts in `skipped` what was left out, by the reason. Raises UserError for what cannot be read, with its place.
        """


class FeedSource(Source, ABC):
    """Sequences that are made when they are needed, as tokens of the byte tokenizer; there is no text and no cache."""

    @abstractmethod
    def feed(self, sequence: int, batch: int, seed: int = 0) -> Feed:
        """Batches of `batch` sequences of `sequence` tokens. Raises UserError where they cannot be made."""


def open_source(text: str, registry: Registry = REGISTRY) -> Source:
    """The source that `data.source` names: one of the registry, else a file, a folder or a glob.

    Raises UserError where nothing is there, with the nearest name.
    """
    found: Source = read_named(SOURCE, text, registry) or registry.get(SOURCE, _FILES).of(text)
    return found


def open_text(text: str, registry: Registry = REGISTRY) -> TextSource:
    """As `open_source`. Raises UserError for a source that is not text."""
    found = open_source(text, registry)
    if not isinstance(found, TextSource):
        raise UserError(f"data.source: {text} makes its own sequences; it has no text to read")
    return found
