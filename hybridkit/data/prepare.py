"""Builds a corpus. The text is copied first, so that splitting and tokenizing see the same bytes."""

from __future__ import annotations

import hashlib
import mmap
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hybridkit.data import cache
from hybridkit.data.readers import PART, TextDocument
from hybridkit.data.source import TextSource
from hybridkit.data.split import ByteSpan, TextBytes, hash_number, split, text_hasher
from hybridkit.data.tokenizer import SAVED, Tokenizer, TokenizerSpec
from hybridkit.recipe.rules_version import CURRENT_RULES
from hybridkit.system.errors import UserError

BuildProgress = Callable[[str, int, int | None], object]  # what is done now, bytes done, of how many, if known
_FORMAT = 3  # of the files; another number makes other folders


class CorpusSpec(NamedTuple):
    """What a corpus is made from, and the fingerprint of its source at the time of the request."""

    source: TextSource
    field: str  # of rows, that holds the text
    tokenizer: TokenizerSpec
    validation: float  # the share that is held out; 0 and 1 are allowed
    fingerprint: object  # of the source
    rules: int = CURRENT_RULES  # of the split and the tokens

    @property
    def settings(self) -> list[object]:
        """All that the files depend on besides the text."""
        return [_FORMAT, self.tokenizer.identity(self.rules), self.validation, self.rules]

    @property
    def stamp(self) -> str:
        """A hash of source and settings; it changes when the source changes."""
        return cache.digest_of([self.fingerprint, self.settings])


class _Copy(NamedTuple):
    """The text of all documents, one after the other in one file."""

    path: Path
    ends: np.ndarray  # (D,) where each document ends
    hashes: np.ndarray  # (D,) uint64, of `document_hash`
    digest: str

    @contextmanager
    def text(self) -> Iterator[mmap.mmap]:
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            yield text


def build_corpus(wanted: CorpusSpec, part: Path, progress: BuildProgress) -> cache.CacheEntry:
    """Build in `part` and publish beside it: the folder, named by the text and the settings.

    Raises UserError for an empty corpus, and for one that changes while it is read.
    """
    skipped = Counter[str]()
    copy = _copied(wanted.source.documents(wanted.field, skipped), part / "text", progress)
    if wanted.source.fingerprint(wanted.field) != wanted.fingerprint:
        raise UserError("data.source: the text changed while it was read; start again when nothing writes to it")
    folder = part.parent / cache.digest_of([wanted.settings, copy.digest])
    if cache.valid_manifest(folder):  # the same text elsewhere, or files that were only touched
        return cache.CacheEntry(folder, dict(skipped))
    try:
        made = _made(copy, wanted, part, progress)
    except MemoryError as error:
        raise UserError(
            f"data.source: a document is too large to be held in memory, as data.tokenizer: {wanted.tokenizer} needs;"
            " cut it into several files or rows, or take `bytes`"
        ) from error
    copy.path.unlink()
    cache.publish(part, folder, {**made, "documents": len(copy.ends)})
    return cache.CacheEntry(folder, dict(skipped))


def _made(copy: _Copy, wanted: CorpusSpec, part: Path, progress: BuildProgress) -> dict[str, Any]:
    """Split the copied text and write its tokens; what the manifest says of them."""
    with copy.text() as text:
        train, held = _split(text, copy, wanted)
        sides = {"train": train, "validation": held}
        progress("making the tokenizer", 0, None)
        tokenizer = wanted.tokenizer.build((text[begin:end] for begin, end in sides["train"]), wanted.rules)
        tokenizer.save(part)
        return _tokenized(text, sides, tokenizer, part, progress)


def _split(text: mmap.mmap, copy: _Copy, wanted: CorpusSpec) -> tuple[list[ByteSpan], list[ByteSpan]]:
    """Training and held-out text; at a share of 0 or 1 one of them is all, document by document."""
    ends = copy.ends.tolist()
    if 0 < wanted.validation < 1:
        return split(text, ends, copy.hashes, wanted.validation, wanted.rules)
    whole = list(zip([0, *ends[:-1]], ends, strict=True))
    return ([], whole) if wanted.validation else (whole, [])


def _copied(documents: Iterable[TextDocument], path: Path, progress: BuildProgress) -> _Copy:
    ends, hashes, digest, end = array("q"), array("Q"), hashlib.blake2b(digest_size=16), 0
    with path.open("wb") as file:
        for document in documents:
            own = text_hasher()
            for raw in [document] if isinstance(document, bytes) else document:
                file.write(raw)
                end += len(raw)
                own.update(raw)
                digest.update(raw)
                progress("reading", end, None)
            ends.append(end)
            hashes.append(hash_number(own))
    if not end:
        raise UserError("data.source: the corpus is empty; it holds no text at all")
    digest.update(ends.tobytes())
    return _Copy(path, np.array(ends), np.array(hashes), digest.hexdigest())


def _tokenized(
    text: mmap.mmap, sides: dict[str, list[ByteSpan]], tokenizer: Tokenizer, part: Path, progress: BuildProgress
) -> dict[str, Any]:
    """Write the tokens of both sides.

    Returns the digest of tokens and tokenizer, the bytes of text of both sides, and how many documents, or parts of
    those that were cut, the tokenizer dropped.
    """
    saved, done, raw, dropped = part / SAVED, 0, {}, 0
    digest = hashlib.blake2b(saved.read_bytes() if saved.exists() else b"", digest_size=16)
    for name, spans in sides.items():
        with _Writer(part / name, tokenizer, digest) as writer:
            for span in spans:
                for amount in writer.add(text, span):
                    done += amount
                    progress("tokenizing", done, len(text))
        if spans and not writer.raw:
            raise UserError(f"data.source: the tokenizer keeps nothing of the {name} text; give more text")
        raw[name] = writer.raw
        dropped += writer.dropped
    return {"digest": digest.hexdigest(), "raw": raw, "dropped": dropped}


class _Writer:
    """The files of one side: ids, where documents begin, and bytes of each token if the tokenizer has no table."""

    def __init__(self, path: Path, tokenizer: Tokenizer, digest: hashlib.blake2b) -> None:
        self.raw = self.dropped = 0  # bytes of what was written, and how many documents were not
        self._path, self._tokenizer, self._digest, self._starts = path, tokenizer, digest, array("q", [0])

    def __enter__(self) -> _Writer:
        self._ids = self._path.with_suffix(".ids").open("wb")
        self._lengths = self._path.with_suffix(".lengths").open("wb")
        return self

    def add(self, text: TextBytes, span: ByteSpan) -> Iterator[int]:
        """Write one document, of whose bytes some are done whenever it yields.

        Nothing is written if the tokenizer drops all of it, as some drop blanks.
        """
        begin, end = span
        size = PART if self._tokenizer.cuts_anywhere and self._tokenizer.lengths is not None else end - begin
        tokens = 0
        for at in range(begin, end, size):
            raw = text[at : min(at + size, end)]
            ids, counted = self._encoded(raw)
            assert counted == len(raw) or not len(ids)
            self._write(ids)
            tokens += len(ids)
            yield len(raw)
        if tokens:
            self._write(np.array([self._tokenizer.end], self._tokenizer.dtype))
            self._starts.append(self._starts[-1] + tokens + 1)
            self.raw += end - begin
        else:
            self.dropped += 1

    def _write(self, ids: np.ndarray) -> None:
        self._digest.update(ids.data)
        self._ids.write(ids.data)

    def _encoded(self, raw: bytes) -> tuple[np.ndarray, int]:
        """Ids and the bytes they stand for; in parts, since a long document's bytes a token would fill the memory."""
        if self._tokenizer.lengths is not None:
            ids, table = self._tokenizer.encode(raw), self._tokenizer.lengths
            return ids, sum(int(table[part].sum()) for part in np.array_split(ids, len(ids) // 2**20 + 1))
        ids, lengths = self._tokenizer.measure(raw)
        if len(ids):
            self._lengths.write(np.append(lengths, 0).astype(np.uint32).data)  # with that of `end`
        return ids, int(lengths.sum())

    def __exit__(self, *_: object) -> None:
        self._ids.close()
        self._lengths.close()
        self._digest.update(self._starts.tobytes())
        self._path.with_suffix(".documents").write_bytes(self._starts.tobytes())
