"""Bytes to token ids and back, and the kind "tokenizer": what `data.tokenizer` of a recipe names.

One file of `data/tokenizers/`, or a plug-in, holds one `TokenizerSpec`. Letters: V vocabulary, N tokens.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import numpy as np

from hybridkit.data.named import NamedSpec
from hybridkit.recipe.rules_version import CURRENT_RULES
from hybridkit.registry.kinds import Kind
from hybridkit.system.files import write_whole

TOKENIZER = Kind("tokenizer", "hybridkit.data.tokenizers")
MARK = "hybridkit"  # first key of a tokenizer.json that a plug-in's tokenizer wrote: what data.tokenizer said
SAVED = "tokenizer.json"  # the file in a folder that holds a tokenizer other than `bytes`


class TextDecoder(Protocol):
    """Text of ids as they come; all that `feed` and `close` gave, joined, is the text of all ids decoded at once."""

    def feed(self, token: int) -> str:
        """The text that is certain once this token is known: whole characters, perhaps none."""

    def close(self) -> str:
        """What was held back, an unfinished character as U+FFFD."""


class Tokenizer(ABC):
    """Token ids of text. `end` stands after every document, never inside one; it is the only token of 0 bytes."""

    vocab: int  # ids are 0 ... vocab - 1
    end: int
    made_by: Mapping[str, Any] = MappingProxyType({})  # what data.tokenizer says, and its plug-in; set by `build`
    lengths: np.ndarray | None  # (V,) int64: raw bytes that each token stands for; None where that varies with the text
    rows: np.ndarray  # (V,) bool: the ids that are tokens; no text has the others
    cuts_anywhere: ClassVar[bool] = False  # True: the ids of a text cut between any two bytes are those of the whole

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

    def state(self) -> Any:
        """What was learned from text, as JSON can hold it, for `TokenizerSpec.load`; None where nothing was."""
        return None

    @cached_property
    def saved(self) -> str:
        """The content of tokenizer.json: by default what the tokenizer was made by, and its state."""
        return json.dumps({**self.made_by, "state": self.state()})

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the tokenizer.json; `bytes` for the byte tokenizer."""
        return hashlib.sha256(self.saved.encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, from which `load_tokenizer(folder)` makes this tokenizer again."""
        write_whole(folder / SAVED, self.saved.encode())


class TokenizerSpec(NamedSpec, ABC):
    """What `data.tokenizer` says. `rules` is the version of the rules that a run was made by."""

    kind: ClassVar[str] = TOKENIZER.name
    key: ClassVar[str] = "data.tokenizer"

    @abstractmethod
    def vocab(self, rules: int = CURRENT_RULES) -> int:
        """How many ids it has at most. Raises UserError where a file cannot be read."""

    @abstractmethod
    def make(self, documents: Iterable[bytes], rules: int = CURRENT_RULES) -> Tokenizer:
        """The tokenizer. `documents` are those of the training side, for one that is trained."""

    def identity(self, rules: int = CURRENT_RULES) -> str:
        """A text that differs whenever the same documents may get other ids; by default the name and its plug-in."""
        return "".join([str(self), *(f" {name} {digest}" for name, digest in self.code().items())])

    def build(self, documents: Iterable[bytes], rules: int = CURRENT_RULES) -> Tokenizer:
        """As `make`, and the tokenizer knows what it was made by."""
        return self._mark(self.make(documents, rules))

    def restore(self, state: Any, rules: int = CURRENT_RULES) -> Tokenizer:
        """As `load`, and the tokenizer knows what it was made by."""
        return self._mark(self.load(state, rules))

    def _mark(self, made: Tokenizer) -> Tokenizer:
        made.made_by = made.made_by or {MARK: str(self), "code": dict(self.code())}
        return made

    def load(self, state: Any, rules: int = CURRENT_RULES) -> Tokenizer:
        """The tokenizer whose `state` was saved; by default, `make` without documents."""
        return self.make((), rules)


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

    cuts_anywhere: ClassVar[bool] = True

    def __init__(self) -> None:
        self.digest = "bytes"
        super().__init__([*(bytes([value]) for value in range(256)), b""], end=256)

    def encode(self, raw: bytes) -> np.ndarray:
        return np.frombuffer(raw, np.uint8).astype(self.dtype)

    def save(self, folder: Path) -> None:
        """Write nothing, and remove a tokenizer.json: a folder without one has this tokenizer."""
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
