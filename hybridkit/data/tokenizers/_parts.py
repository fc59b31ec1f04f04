"""Encodes a long text in parts of bounded size. The tokens are those of the whole text.

The library's result for a text takes 100 times as much memory as the text. So a long text is encoded in windows that
overlap. Two neighbours are joined where `AGREED` tokens in a row are the same in both, at the same positions: the ends
of a window (a space added before it, a word cut in two) only affect tokens near them. If two windows agree nowhere,
all windows are made twice as long, if necessary as long as the text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

WINDOW = 1 << 18  # characters
OVERLAP = 16385  # characters; WINDOW - OVERLAP is prime, so that no period of the text divides it
AGREED = 32  # tokens


class TokenPart(NamedTuple):
    """N tokens in order, and where in the whole text, in characters, each begins and ends."""

    ids: np.ndarray  # (N,) int64
    begins: np.ndarray  # (N,) int64
    ends: np.ndarray  # (N,) int64

    def cut(self, begin: int, end: int | None = None) -> TokenPart:
        """The tokens from `begin` up to `end`."""
        return TokenPart(*(field[begin:end] for field in self))


def encode_parts(
    encode: Callable[[str], Any], text: str, window: int = WINDOW, overlap: int = OVERLAP
) -> list[TokenPart]:
    """The tokens of `text`, in parts. `encode` returns the library's encoding of a text."""
    parts, begin, skip = [], 0, 0
    here = _window(encode, text, 0, window)
    while (end := begin + window) < len(text):
        begin = end - overlap
        there = _window(encode, text, begin, begin + window)
        joint = _joint(here, there, begin, end)
        if joint is None:
            return encode_parts(encode, text, 2 * window, 2 * overlap + 1)
        parts.append(here.cut(skip, joint[0]))
        here, skip = there, joint[1]
    return [*parts, here.cut(skip)]


def _window(encode: Callable[[str], Any], text: str, begin: int, end: int) -> TokenPart:
    made = encode(text[begin:end])
    places = np.array(made.offsets, np.int64).reshape(-1, 2) + begin
    return TokenPart(np.array(made.ids, np.int64), places[:, 0], places[:, 1])


def _joint(one: TokenPart, two: TokenPart, begin: int, end: int) -> tuple[int, int] | None:
    """The places in each, in the overlap from character `begin` to `end`, of a token from which both are the same."""
    half, quarter = AGREED // 2, (end - begin) // 4
    for middle in sorted(range(begin + quarter, end - quarter + 1, max(1, quarter // 8)), key=_from((begin + end) / 2)):
        places = [int(np.searchsorted(np.maximum.accumulate(part.begins), middle)) for part in (one, two)]
        runs = [part.cut(max(0, place - half), place + half) for part, place in zip((one, two), places, strict=True)]
        if len(runs[0].ids) == AGREED and all(map(np.array_equal, *runs)):
            return places[0], places[1]
    return None


def _from(middle: float) -> Callable[[int], float]:
    return lambda place: abs(place - middle)
