"""Tokenizers that the `tokenizers` library runs: any tokenizer.json, and byte-level BPE trained on the corpus.

Byte-level tokenizers (as GPT-2's) that neither normalize nor drop anything are `ByteLevel`: they keep every byte, and
a token always stands for the same bytes. With a `MeasuredTokenizer`, any other, the bytes of a token are found in the
text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from hybridkit.data.tokenizer import PieceTokenizer, TextDecoder, Tokenizer
from hybridkit.data.tokenizers._decoding import BYTE_OF, TextStream, bytes_decoder, spelled
from hybridkit.data.tokenizers._json_file import (
    ENDS,
    library_errors,
    parse_tokenizer,
    read_tokenizer_text,
    seal_special_tokens,
    unknown_name,
)
from hybridkit.data.tokenizers._parts import WINDOW, TokenPart, encode_parts
from hybridkit.recipe.rules_version import CURRENT_RULES

VERSION = f"tokenizers {tokenizers.__version__}"
_NOT_UTF8 = re.compile("[\udc80-\udcff]+|[^\udc80-\udcff]+")  # bytes that are not UTF-8, as surrogateescape writes them


def train_bpe(documents: Iterable[bytes], vocab: int, rules: int = CURRENT_RULES) -> ByteLevel:
    """Byte-level BPE (Sennrich et al., arXiv 1508.07909) of at most `vocab` tokens; equal text gives equal tokenizers.

    Id 0 ends a document; then come the 256 bytes, then merges by rank. There are fewer tokens if the text is short.
    """
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[ENDS[0]],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator((part for raw in documents for part in _stretches(raw.decode())), trainer)
    return ByteLevel(library.to_str(), rules)


def read_tokenizer(path: Path, rules: int = CURRENT_RULES) -> ByteLevel | MeasuredTokenizer:
    """The tokenizer of a tokenizer.json, by these `rules`. Raises UserError for a file that is no tokenizer."""
    with library_errors(f"{path}: not a tokenizer.json that can be read"):
        text = read_tokenizer_text(path)
        return ByteLevel(text, rules) if _keeps_bytes(parse_tokenizer(text)) else MeasuredTokenizer(text, rules)


class _Library:
    """The library's tokenizer of a file, without truncation, padding, templates and dropout.

    By rules 1 text that spells a special token could become that token, and long text was cut before encoding.
    """

    _knows_all = False  # whether every text has tokens, so that none is unknown

    def __init__(self, text: str, rules: int = CURRENT_RULES) -> None:
        self.saved, self._rules = text, rules
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        made = parse_tokenizer(text)
        self.library = _loaded(made)
        self.known = self.library.get_vocab()
        new = max(self.known.values()) + 1
        self.end = self._end(made, new)
        self.vocab = max(new, self.end + 1)
        copy = seal_special_tokens(made, self.end) if rules > 1 else None
        self._encoder = _loaded(copy) if copy else self.library
        self.rows = np.isin(np.arange(self.vocab), [*self.known.values(), self.end])  # (V,)

    def parts(self, text: str) -> list[TokenPart]:
        """The tokens of a text, in order. Raises UserError for a text that the tokenizer cannot encode."""
        with library_errors("data.tokenizer: the tokenizer cannot encode the text"):
            if self._rules > 1:
                return encode_parts(self._encoded, text)
            parts, begin = [], 0
            for stretch in _stretches(text):
                part = encode_parts(self._encoded, stretch)[0]
                parts.append(TokenPart(part.ids, part.begins + begin, part.ends + begin))
                begin += len(stretch)
            return parts

    def _encoded(self, text: str) -> Any:
        return self._encoder.encode(text, add_special_tokens=False)

    def _end(self, made: dict[str, Any], new: int) -> int:
        """The id that ends a document: that of a special token which stands for no text, else a new id."""
        special = {token.content for token in self.library.get_added_tokens_decoder().values() if token.special}
        if self._rules > 1 and not self._knows_all:
            special -= {unknown_name(made["model"])}
        return next((self.known[name] for name in ENDS if name in special), new)


def _loaded(made: dict[str, Any]) -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer.from_str(json.dumps(made))
    library.encode_special_tokens = True  # text that spells a special token stays text
    return library


class ByteLevel(_Library, PieceTokenizer):
    """A byte-level BPE: any bytes can be encoded, and decoding gives the same bytes."""

    _knows_all = True

    def __init__(self, text: str, rules: int = CURRENT_RULES) -> None:
        super().__init__(text, rules)
        added = {token: one.content.encode() for token, one in self.library.get_added_tokens_decoder().items()}
        names = {token: name for name, token in self.known.items() if token not in added}
        pieces = {token: spelled(name) for token, name in names.items()} | added
        PieceTokenizer.__init__(self, [pieces.get(token, b"") for token in range(self.vocab)], self.end)
        order = sorted(BYTE_OF, key=BYTE_OF.__getitem__)
        self._byte_ids = np.array([self.known[char] for char in order], self.dtype)  # (256,)

    def encode(self, raw: bytes) -> np.ndarray:
        parts = (part for run in _NOT_UTF8.findall(raw.decode("utf-8", "surrogateescape")) for part in self._ids(run))
        return np.concatenate([np.empty(0, self.dtype), *parts], dtype=self.dtype, casting="unsafe")

    def _ids(self, run: str) -> Iterator[np.ndarray]:
        if "\udc80" <= run[0] <= "\udcff":
            yield self._byte_ids[np.frombuffer(run.encode("utf-8", "surrogateescape"), np.uint8)]
            return
        yield from (part.ids for part in self.parts(run))


class MeasuredTokenizer(_Library, Tokenizer):
    """Any other tokenizer; decoding may give less than was encoded, since some tokenizers drop or change text."""

    lengths = None

    def __init__(self, text: str, rules: int = CURRENT_RULES) -> None:
        super().__init__(text, rules)
        self._decoded = bytes_decoder(parse_tokenizer(text), self.library)

    def measure(self, raw: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Bytes that no token covers are counted with the next token, or with the last one if there is no next.

        Bytes that are not UTF-8 are read, and counted, as U+FFFD.
        """
        text, begin, passed = raw.decode("utf-8", "replace"), 0, 0  # bytes and characters before a part
        ids, ends = [np.empty(0, self.dtype)], [np.empty(0, np.int64)]
        for part in self.parts(text):
            places = np.maximum.accumulate(np.append(passed, part.ends))[1:]  # characters
            last = int(places[-1]) if len(places) else passed
            code = np.frombuffer(text[passed:last].encode("utf-32-le"), np.uint32)
            width = np.concatenate([[0], np.cumsum(1 + (code > 0x7F) + (code > 0x7FF) + (code > 0xFFFF))])
            ids.append(part.ids)
            ends.append(begin + width[places - passed])
            begin, passed = begin + int(width[-1]), last
        end = np.concatenate(ends)
        end[-1:] = begin + len(text[passed:].encode())
        return np.concatenate(ids, dtype=self.dtype, casting="unsafe"), np.diff(end, prepend=0)

    def decode(self, ids: Iterable[int]) -> bytes:
        return self._decoded([int(token) for token in ids if token != self.end and token < self.vocab])

    def stream(self, after: Sequence[int] = ()) -> TextDecoder:
        return TextStream(self.decode, after)


def _stretches(text: str) -> Iterator[str]:
    """The text in parts of at most `WINDOW` characters; a part ends with a line if one ends in it."""
    begin = 0
    while begin < len(text):
        end = begin + WINDOW
        if end < len(text):
            end = text.rfind("\n", begin, end) + 1 or end
        yield text[begin:end]
        begin = end


def _keeps_bytes(made: dict[str, Any]) -> bool:
    """Whether the tokenizer keeps every byte of any text, and each token always stands for the same bytes."""
    model, added, steps = made["model"], made["added_tokens"], made.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", [steps])
    if model.get("type") != "BPE" or made.get("normalizer") is not None:
        return False
    names = model["vocab"].keys() - {token["content"] for token in added}
    return (
        set("".join(names)) == BYTE_OF.keys() <= names
        and not model.get("continuing_subword_prefix")
        and not model.get("end_of_word_suffix")
        and any(step.get("type") == "ByteLevel" for step in steps)
        and all(step.get("type") in ("ByteLevel", "Split", "Digits", "Punctuation") for step in steps)
        and not any(step.get("add_prefix_space") or step.get("behavior") == "Removed" for step in steps)
        and not any(token["lstrip"] or token["rstrip"] for token in added)
        and not any(spelled(name) != name.encode() for name in model["vocab"].keys() - names)
    )
