"""Decodes ids of a tokenizer.json to bytes, all at once or one by one.

The library decodes to text: an incomplete character becomes U+FFFD, and so does a whole run of SentencePiece's byte
tokens if any character of it is incomplete. Here such tokens give their bytes.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tokenizers

from hybridkit.data.tokenizers._json_file import BYTE_NAME, names_of

CONTEXT = 16  # earlier ids that are decoded again with a new one, whose text may depend on them
_PRIVATE = range(0xF0000, 0x110000, 256)  # blocks of private characters; one that no token uses is taken


def _byte_alphabet() -> dict[str, int]:
    """The character for each byte in byte-level files: the byte itself if it is printable, else one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in printable]
    return {chr(value): value for value in printable} | {chr(256 + i): value for i, value in enumerate(others)}


BYTE_OF = _byte_alphabet()


def bytes_decoder(made: dict[str, Any], library: tokenizers.Tokenizer) -> Callable[[list[int]], bytes]:
    """A function that decodes ids of the library's tokenizer to bytes; an id without a token gives none."""
    added = {token: one.content for token, one in library.get_added_tokens_decoder().items()}
    names = {token: name for name, token in library.get_vocab().items()} | added
    if (made.get("decoder") or {}).get("type") == "ByteLevel":
        own = {name for name, _ in names_of(made["model"])}  # of which an added token may be one
        beside = {token for token, name in added.items() if name not in own}
        pieces = {token: name.encode() if token in beside else spelled(name) for token, name in names.items()}
        return lambda ids: b"".join(pieces.get(token, b"") for token in ids)
    table: dict[int, str] = {}
    if made["model"].get("byte_fallback"):
        held = {ord(char) // 256 for name in names.values() for char in name}
        first = next(block for block in _PRIVATE if block // 256 not in held)
        table = {first + value: chr(value) if value < 128 else chr(0xDC00 + value) for value in range(256)}
        found = {token: BYTE_NAME.fullmatch(name) for token, name in names.items()}
        names |= {token: chr(first + int(byte[1], 16)) for token, byte in found.items() if byte}

    def decode(ids: list[int]) -> bytes:
        given = [names[token] for token in ids if token in names]
        text = library.decoder.decode(given) if library.decoder else " ".join(given)
        return text.translate(table).encode("utf-8", "surrogateescape")

    return decode


def spelled(name: str) -> bytes:
    """The bytes of a name in byte letters; of any other, its own in UTF-8."""
    return bytes(BYTE_OF[char] for char in name) if BYTE_OF.keys() >= set(name) else name.encode()


class TextStream:
    """Decodes each new id together with the `CONTEXT` ids before it, and returns the text that is new."""

    def __init__(self, decode: Callable[[Iterable[int]], bytes], after: Sequence[int] = ()) -> None:
        self._decode, self._ids = decode, list(after[-CONTEXT:])
        self._said = decode(self._ids)  # the bytes of `_ids`, which `_characters` has had already
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._characters.decode(self._said)

    def feed(self, token: int) -> str:
        self._ids.append(token)
        raw = self._decode(self._ids)
        if raw.endswith(b"\xef\xbf\xbd"):  # this may be an incomplete character
            return ""
        return self._say(raw)

    def close(self) -> str:
        return self._say(self._decode(self._ids)) + self._characters.decode(b"", final=True)

    def _say(self, raw: bytes) -> str:
        pairs = enumerate(zip(self._said, raw, strict=False))
        new = raw[next((i for i, (old, now) in pairs if old != now), min(len(self._said), len(raw))) :]
        self._ids = self._ids[-CONTEXT:]
        self._said = self._decode(self._ids)
        return self._characters.decode(new)
