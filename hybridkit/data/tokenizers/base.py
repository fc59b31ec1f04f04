"""Bytes to token ids and back: the protocol, the byte tokenizer, and the one that `data.tokenizer` names.

Letters: V vocabulary, N tokens.
"""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

SAVED = "tokenizer.json"  # the file in a folder that holds a tokenizer other than `bytes`


class TextDecoder(Protocol):
    """Text of ids as they come; all that `feed` and `close` gave, joined, is the text of all ids decoded at once."""

    def feed(self, token: int) -> str:
        """The text that is certain once this token is known: whole characters, perhaps none."""

    def close(self) -> str:
        """What was held back, an unfinished character as U+FFFD."""


class Tokenizer(ABC):
    """Token ids of text. `end` stands after every document, never inside one, and for no bytes."""

    vocab: int  # ids are 0 ... vocab - 1
    end: int
    digest: str  # `bytes`, or the SHA-256 of the tokenizer.json that `save` writes
    lengths: np.ndarray | None  # (V,) int64: raw bytes that each token stands for; None where that varies with the text
    rows: np.ndarray  # (V,) bool: the ids that are tokens; no text has the others

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """The smallest of uint16 and uint32 that holds every id."""
        return np.uint16 if self.vocab <= 2**16 else np.uint32

    @abstractmethod
    def measure(self, raw: bytes) -> tuple[np.ndarray, np.ndarray]:
        """The ids of `raw`, without `end`, and the raw bytes each stands for, which add up to all: (N,), (N,)."""

    def encode(self, raw: bytes) -> np.ndarray:
        """The ids of `raw`, without `end`: (N,) of `dtype`."""
        return self.measure(raw)[0]

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids; none for `end`, nor for ids from `vocab` on, which a padded model knows."""

    @abstractmethod
    def stream(self, after: Sequence[int] = ()) -> TextDecoder:
        """A decoder for ids that come one at a time, after others, whose text has been given already."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Make `load_tokenizer(folder)` give this tokenizer: by a tokenizer.json, or for `bytes` by having none."""


class PieceTokenizer(Tokenizer):
    """A tokenizer each of whose tokens stands for the same bytes wherever it stands."""

    def __init__(self, pieces: Sequence[bytes], end: int) -> None:
        self.vocab, self.end = len(pieces), end
        self.rows = getattr(self, "rows", np.ones(len(pieces), bool))
        self.pieces = [b"" if token == end else piece for token, piece in enumerate(pieces)]
        self.lengths: np.ndarray = np.array([len(piece) for piece in self.pieces])

    def measure(self, raw: bytes) -> tuple[np.ndarray, np.ndarray]:
        ids = self.encode(raw)
        return ids, self.lengths[ids]

    def decode(self, ids: Iterable[int]) -> bytes:
        return b"".join(self.piece(int(token)) for token in ids)

    def piece(self, token: int) -> bytes:
        """The bytes of one token."""
        return self.pieces[token] if token < self.vocab else b""

    def stream(self, after: Sequence[int] = ()) -> TextDecoder:
        return _PieceStream(self, after)


class ByteTokenizer(PieceTokenizer):
    """A token a byte: ids are byte values, and 256 ends a document."""

    digest = "bytes"

    def __init__(self) -> None:
        super().__init__([*(bytes([value]) for value in range(256)), b""], end=256)

    def encode(self, raw: bytes) -> np.ndarray:
        return np.frombuffer(raw, np.uint8).astype(self.dtype)

    def save(self, folder: Path) -> None:
        (folder / SAVED).unlink(missing_ok=True)


class _PieceStream:
    def __init__(self, tokenizer: PieceTokenizer, after: Sequence[int]) -> None:
        self._piece = tokenizer.piece
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in after:
            self.feed(token)

    def feed(self, token: int) -> str:
        return self._decoder.decode(self._piece(token))

    def close(self) -> str:
        return self._decoder.decode(b"", final=True)
