"""Text in which needles are hidden: words for keys, and sentences of essays.

A haystack of essays is a list of words of which a task takes as many as fit; its digest is part of every sample's
identity, for scores on different haystacks do not compare.
"""

from __future__ import annotations

import bisect
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate
from pathlib import Path

from hybridkit.system.errors import UserError

DEFAULT = "pydoc_data.topics (Python's own reference, repeated as needed)"
_SENTENCE = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"')\]]))\s+(?=[\"'(\[]*[A-Z0-9])")


@dataclass(frozen=True)
class Essays:
    """Running text, cut into words at white space. `repeats`: it starts again at its end."""

    name: str
    words: tuple[str, ...]
    repeats: bool = False

    @cached_property
    def digest(self) -> str:
        """A hash of the text."""
        return hashlib.blake2b(" ".join(self.words).encode(), digest_size=8).hexdigest()

    def sentences(self, words: int) -> list[str]:
        """The first `words` words, as sentences. Raises UserError if the text has fewer words and does not repeat."""
        if words > len(self.words) and not self.repeats:
            raise UserError(
                f"--haystack {self.name}: it has {len(self.words):,} words, too few for the lengths asked for;"
                " give a longer text, or shorter --lengths"
            )
        times = -(-words // len(self.words))
        return split_sentences(" ".join((self.words * times)[:words]))


def split_sentences(text: str) -> list[str]:
    """Sentences: they end in . ! or ?, and white space and a capital letter or a digit follow."""
    return _SENTENCE.split(text.strip())


def open_essays(path: Path | None = None) -> Essays:
    """The text of a file, or of a folder's *.txt and *.md files in the order of their names; by default Python's own
    reference. Raises UserError where there is none, or it is not UTF-8 text."""
    if path is None:
        return _default()
    if not (path.is_file() or path.is_dir()):  # reading a pipe would wait for a writer
        raise UserError(f"--haystack {path}: no such file or folder; give a text file, or a folder of *.txt or *.md")
    files = (
        sorted(f for f in path.rglob("*") if f.suffix in (".txt", ".md") and f.is_file()) if path.is_dir() else [path]
    )
    words = tuple(word for file in files for word in _read(file).split())
    if not words:
        raise UserError(f"--haystack {path}: holds no text; give a text file, or a folder of *.txt or *.md")
    return Essays(str(path), words)


@cache
def _default() -> Essays:
    from pydoc_data.topics import topics

    paragraphs = (part for _, topic in sorted(topics.items()) for part in re.split(r"\n\s*\n", topic))
    prose = (part for part in paragraphs if _is_prose(part))
    return Essays(DEFAULT, tuple(word for part in prose for word in part.split()), repeats=True)


def _is_prose(paragraph: str) -> bool:
    """Whether it is prose: no heading or table, and no code or grammar, which are indented."""
    return paragraph[:1].isalpha() and paragraph.rstrip()[-1:] in ".!?" and "::=" not in paragraph


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"--haystack {file}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise UserError(f"--haystack {file}: cannot be read: {error.strerror}") from error


class Words(Sequence[str]):
    """Every `adjective-noun`, sorted and unique, as a sequence; the list of millions is never built.

    Words of one adjective stand together, unless `adjective-` begins another adjective: then theirs are sorted as one.
    """

    def __init__(self, adjectives: Sequence[str], nouns: Sequence[str]) -> None:
        self._nouns = sorted(set(nouns))
        heads = sorted({f"{adjective}-" for adjective in adjectives})
        self._groups: list[list[str]] = []
        for head in heads:
            if self._groups and head.startswith(self._groups[-1][0]):
                self._groups[-1].append(head)
            else:
                self._groups.append([head])
        self._ends = list(accumulate(len(self._group(place)) for place in range(len(self._groups))))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # no slices
        place = bisect.bisect_right(self._ends, index)
        return self._group(place)[index - (self._ends[place - 1] if place else 0)]

    def _group(self, place: int) -> Sequence[str]:
        heads = self._groups[place]
        if len(heads) == 1:
            return _Prefixed(heads[0], self._nouns)
        return sorted({head + noun for head in heads for noun in self._nouns})


@dataclass(frozen=True)
class _Prefixed(Sequence[str]):
    head: str
    nouns: Sequence[str]

    def __len__(self) -> int:
        return len(self.nouns)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        return self.head + self.nouns[index]


@cache
def key_words() -> Words:
    """The words that keys are drawn from: wonderwords' adjectives and nouns."""
    from wonderwords import RandomWord

    lists = RandomWord()._categories
    return Words(lists["adjectives"], lists["nouns"])
