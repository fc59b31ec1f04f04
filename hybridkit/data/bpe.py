"""Tokenizers that the `tokenizers` library runs: any tokenizer.json, and byte-level BPE trained on the corpus.

Byte-level files (GPT-2's kind) that neither normalize nor drop anything are `ByteLevel`: they keep every byte, and a
token has the same bytes everywhere. With any other file (`Measured`) the bytes of a token are measured in the text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from hybridkit.data.tokenizers import SAVED, Pieces, Stream, Tokenizer
from hybridkit.errors import UserError

VERSION = f"tokenizers {tokenizers.__version__}"
_ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<|eos|>", "<eos>", "<|im_end|>", "[EOS]", "<EOS>")
_STRETCH = 1 << 18  # characters given to the library at once: its own record of a text takes 100 times as much
_NOT_UTF8 = re.compile("[\udc80-\udcff]+|[^\udc80-\udcff]+")  # surrogateescape's spelling of stray bytes


def train(documents: Iterable[bytes], vocab: int) -> ByteLevel:
    """Byte-level BPE (Sennrich et al., arXiv 1508.07909) of at most `vocab` tokens; the same text gives the same one.

    Ids: 0 the end of a document, then the 256 bytes, then merges by rank. Little text gives fewer tokens.
    """
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[_ENDS[0]],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator((part for raw in documents for part in _stretches(raw.decode())), trainer)
    return ByteLevel(library.to_str())


def read(path: Path) -> ByteLevel | Measured:
    """The tokenizer of a tokenizer.json. Raises UserError for a file that is none."""
    try:
        text = path.read_text(encoding="utf-8")
        made = json.loads(text)
        return ByteLevel(text) if _keeps_bytes(made) else Measured(text)
    except Exception as error:  # the library raises bare Exception for JSON that is not a tokenizer's
        raise UserError(f"{path}: not a tokenizer.json that can be read: {str(error)[:200]}") from error


class _Library:
    """The library's tokenizer as the file says it, without what depends on more than the text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.identity = f"{hashlib.sha256(text.encode()).hexdigest()} {VERSION}"
        made = json.loads(text)
        made.update(truncation=None, padding=None, post_processor=None)
        made["model"] |= {"dropout": None} if "dropout" in made["model"] else {}
        self.library = tokenizers.Tokenizer.from_str(json.dumps(made))
        self.library.encode_special_tokens = True  # text that spells a special token is text
        self.known = self.library.get_vocab()
        special = {token.content for token in self.library.get_added_tokens_decoder().values() if token.special}
        new = max(self.known.values()) + 1
        self.end = next((self.known[name] for name in _ENDS if name in special), new)
        self.vocab = max(new, self.end + 1)

    def save(self, folder: Path) -> None:
        (folder / SAVED).write_text(self._text, encoding="utf-8")


class ByteLevel(_Library, Pieces):
    """A byte-level BPE: any bytes can be encoded, and come back as they were."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        added = {token: one.content.encode() for token, one in self.library.get_added_tokens_decoder().items()}
        names = {token: name for name, token in self.known.items() if token not in added}
        spelled = {token: bytes(_BYTE_OF[char] for char in name) for token, name in names.items()} | added
        Pieces.__init__(self, [spelled.get(token, b"") for token in range(self.vocab)], self.end)
        order = sorted(_BYTE_OF, key=_BYTE_OF.__getitem__)
        self._byte_ids = np.array([self.known[char] for char in order], self.dtype)  # (256,)

    def encode(self, raw: bytes) -> np.ndarray:
        parts = (part for run in _NOT_UTF8.findall(raw.decode("utf-8", "surrogateescape")) for part in self._ids(run))
        return np.concatenate([np.empty(0, self.dtype), *parts], dtype=self.dtype)

    def _ids(self, run: str) -> Iterator[np.ndarray]:
        if "\udc80" <= run[0] <= "\udcff":
            yield self._byte_ids[np.frombuffer(run.encode("utf-8", "surrogateescape"), np.uint8)]
            return
        for part in _stretches(run):
            yield np.array(self.library.encode(part, add_special_tokens=False).ids, self.dtype)


class Measured(_Library, Tokenizer):
    """Any other tokenizer of text: decoding gives back what it keeps, which may be less than it was given."""

    lengths = None

    def measure(self, raw: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Bytes that no token covers count with the next token, those after the last one with the last.

        What is not UTF-8 is read, and counted, as U+FFFD.
        """
        ids, ends, begin = [np.empty(0, self.dtype)], [np.empty(0, np.int64)], 0
        for part in _stretches(raw.decode("utf-8", "replace")):
            made = self.library.encode(part, add_special_tokens=False)
            code = np.frombuffer(part.encode("utf-32-le"), np.uint32)
            place = np.concatenate([[0], np.cumsum(1 + (code > 0x7F) + (code > 0x7FF) + (code > 0xFFFF))])
            ids.append(np.array(made.ids, self.dtype))
            ends.append(begin + place[np.array([end for _, end in made.offsets], np.int64)])
            begin += int(place[-1])
        end = np.maximum.accumulate(np.concatenate(ends))
        end[-1:] = begin
        return np.concatenate(ids), np.diff(end, prepend=0)

    def decode(self, ids: Iterable[int]) -> bytes:
        kept = [int(token) for token in ids if token != self.end and token < self.vocab]
        return self.library.decode(kept, skip_special_tokens=False).encode()

    def stream(self) -> Stream:
        return _TextStream(self)


class _TextStream:
    """Decodes from the last whole text on, since a token's text may depend on its neighbours."""

    def __init__(self, tokenizer: Measured) -> None:
        self._tokenizer, self._ids, self._said = tokenizer, list[int](), 0

    def feed(self, token: int) -> str:
        if token == self._tokenizer.end or token >= self._tokenizer.vocab:
            return ""
        self._ids.append(token)
        text = self._text(self._ids)
        return "" if text.endswith("\ufffd") else self._say(text)

    def close(self) -> str:
        return self._say(self._text(self._ids))

    def _say(self, text: str) -> str:
        new = text[len(self._text(self._ids[: self._said])) :]
        self._ids, self._said = self._ids[self._said :], len(self._ids) - self._said
        return new

    def _text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids).decode()


def _stretches(text: str) -> Iterator[str]:
    """The text in stretches of bounded length that end with a line where they can."""
    begin = 0
    while begin < len(text):
        end = begin + _STRETCH
        if end < len(text):
            end = text.rfind("\n", begin, end) + 1 or end
        yield text[begin:end]
        begin = end


def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in byte-level files: itself where printable, else one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in printable]
    return {chr(value): value for value in printable} | {chr(256 + i): value for i, value in enumerate(others)}


_BYTE_OF = _byte_alphabet()


def _keeps_bytes(made: dict[str, Any]) -> bool:
    """Whether a tokenizer.json says that every byte of any text is kept, in tokens that have bytes of their own."""
    model, added, steps = made["model"], made["added_tokens"], made.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", [steps])
    if model.get("type") != "BPE" or made.get("normalizer") is not None:
        return False
    names = model["vocab"].keys() - {token["content"] for token in added}
    return (
        set("".join(names)) == _BYTE_OF.keys() <= names
        and not model.get("continuing_subword_prefix")
        and not model.get("end_of_word_suffix")
        and any(step.get("type") == "ByteLevel" for step in steps)
        and all(step.get("type") in ("ByteLevel", "Split", "Digits", "Punctuation") for step in steps)
        and not any(step.get("add_prefix_space") or step.get("behavior") == "Removed" for step in steps)
        and not any(token["lstrip"] or token["rstrip"] for token in added)
    )
