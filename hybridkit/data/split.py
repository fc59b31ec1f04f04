"""Chooses the text that is held out for validation. The choice depends on the text alone, never on a seed.

A hash of its bytes decides on which side a document is, so that equal documents are on the same side. A document that
is too large is cut into pieces; the hash of a piece includes its position in the document. If the held-out amount is
then further from `data.validation` than `SPLIT_TOLERANCE`, which happens with few documents, pieces change sides, in
the order of their hashes.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from hybridkit.recipe.rules_version import CURRENT_RULES
from hybridkit.system.errors import UserError

SPLIT_TOLERANCE = 0.25  # how far the held-out amount may be off, as a part of the smaller side's share
_LEAST = (64, 8, 1)  # smallest piece in bytes; a smaller value is tried if all pieces are equal
ByteSpan = tuple[int, int]  # begin and end, in the text, of a document or a part of one
TextBytes = bytes | mmap.mmap


def split(
    text: TextBytes, ends: Sequence[int], hashes: np.ndarray, fraction: float, rules: int = CURRENT_RULES
) -> tuple[list[ByteSpan], list[ByteSpan]]:
    """The training spans and the held-out spans of the documents that end at `ends` and have `hashes`, each in order.

    Raises UserError for a text of a single character.
    """
    if len(ends) == 1:
        place = cut_place(text, fraction, rules)
        return [(0, place)], [(place, len(text))]
    spans = list(zip([0, *ends], ends, strict=False))
    if rules == 1:
        pieces, held = [[span] for span in spans], held_out_of_rules_1(hashes, fraction)
    else:
        pieces, held = _chosen(text, spans, hashes, fraction)
    sides = iter(held.tolist())
    out: tuple[list[ByteSpan], list[ByteSpan]] = [], []
    for document in pieces:
        marked = [(next(sides), piece) for piece in document]
        for side, run in groupby(marked, key=lambda pair: pair[0]):
            stretch = [piece for _, piece in run]
            out[side].append((stretch[0][0], stretch[-1][1]))
    return out


def document_hash(raw: bytes) -> int:
    """A number in [0, 2**64) that decides on which side of the split a text is; equal texts have equal numbers."""
    hasher = text_hasher()
    hasher.update(raw)
    return hash_number(hasher)


def text_hasher() -> hashlib.blake2b:
    """What hashes a text part by part, for `hash_number`."""
    return hashlib.blake2b(digest_size=8, person=b"held out")


def hash_number(hasher: hashlib.blake2b) -> int:
    """The `document_hash` of the text that was hashed."""
    return int.from_bytes(hasher.digest(), "big")


def held_out_pieces(hashes: np.ndarray, fraction: float, sizes: np.ndarray | None = None) -> np.ndarray:
    """Which pieces are held out, (P,) bool. `hashes`: (P,) uint64; `sizes`: (P,), by default all equal.

    Pieces with equal hashes are on the same side. The held-out part of the total size is `fraction`, with an error of
    at most `SPLIT_TOLERANCE` of the smaller side, unless a group of equal pieces is larger than twice that; then that
    group is on the larger side. Neither side is empty if there are two different hashes.
    """
    keys, group = np.unique(hashes, return_inverse=True)
    amounts = np.bincount(group, weights=sizes)  # (G,) in the order of the hashes
    aim, slack = fraction * amounts.sum(), SPLIT_TOLERANCE * min(fraction, 1 - fraction) * amounts.sum()
    larger = fraction > 0.5
    chosen = (amounts > 2 * slack) & larger
    small = np.flatnonzero(amounts <= 2 * slack)
    held = amounts[chosen].sum() + np.concatenate([[0.0], np.cumsum(amounts[small])])  # with 0, 1, ... small groups
    count = int((keys[small] < np.uint64(fraction * 2.0**64)).sum())
    least, most = np.searchsorted(held, aim - slack), np.searchsorted(held, aim + slack, "right") - 1
    count = min(max(count, int(least)), max(int(most), 0), len(small))
    chosen[small[:count]] = True
    if len(keys) > 1 and chosen.all() | ~chosen.any():
        chosen[np.abs(amounts - min(aim, amounts.sum() - aim)).argmin()] ^= True
    return chosen[group]


def held_out_of_rules_1(hashes: np.ndarray, fraction: float) -> np.ndarray:
    """The held-out documents in runs made by rules 1: about `fraction` of their number, whatever their sizes."""
    chosen = hashes < np.uint64(fraction * 2.0**64)
    if len(hashes) > 1 and not chosen.any():
        chosen[hashes.argmin()] = True
    if len(hashes) > 1 and chosen.all():
        chosen[hashes.argmax()] = False
    return chosen


def cut_place(raw: TextBytes, fraction: float, rules: int = CURRENT_RULES) -> int:
    """Where a corpus of a single document is cut; what follows is held out.

    That is the line end nearest to the place where the last `fraction` begins. If no line ends within
    `SPLIT_TOLERANCE` of that place (by rules 1: if there is no line end), it is cut between two characters. Raises
    UserError for a document of fewer than two characters.
    """
    aim = max(1, min(round(len(raw) * (1 - fraction)), len(raw) - 1))
    slack = len(raw) * (SPLIT_TOLERANCE * min(fraction, 1 - fraction) if rules > 1 else 1)
    before, after = raw.rfind(b"\n", 0, aim) + 1, raw.find(b"\n", aim) + 1
    places = [place for place in (before, after) if 0 < place < len(raw) and abs(place - aim) <= slack]
    if places:
        return min(places, key=lambda place: abs(place - aim))
    near = range(max(1, aim - 3), min(aim + 4, len(raw)))  # a character has at most 4 bytes
    starts = [place for place in near if raw[place] & 0xC0 != 0x80]
    if not starts:
        raise UserError("data.source: the corpus is a single character; training and validation need more text")
    return min(starts, key=lambda place: abs(place - aim))


def _chosen(
    text: TextBytes, spans: list[ByteSpan], hashes: np.ndarray, fraction: float
) -> tuple[list[list[ByteSpan]], np.ndarray]:
    """The pieces of each document, and which of all pieces are held out."""
    for least in _LEAST:
        pieces = _pieces(text, spans, hashes, fraction, least)
        numbers = [
            number if len(one) == 1 else document_hash(b"%d of %d" % (place, number))  # equal for equal documents
            for one, number in zip(pieces, hashes.tolist(), strict=True)
            for place in range(len(one))
        ]
        sizes = np.array([end - begin for one in pieces for begin, end in one])
        held = held_out_pieces(np.array(numbers, np.uint64), fraction, sizes)
        if held.any() and not held.all():
            return pieces, held
    return pieces, np.arange(len(held)) == 0  # the text repeats one character


def _pieces(
    text: TextBytes, spans: list[ByteSpan], hashes: np.ndarray, fraction: float, least: int
) -> list[list[ByteSpan]]:
    """The pieces of each document: itself, or several if it and its copies are too large for `held_out_pieces`.

    The largest size is a power of two, so that it seldom changes when text is added to a corpus.
    """
    exact = int(2 * SPLIT_TOLERANCE * min(fraction, 1 - fraction) * spans[-1][1])
    largest = max(1 << max(0, exact.bit_length() - 1), least)
    _, group, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    out = []
    for (begin, end), copies in zip(spans, counts[group].tolist(), strict=True):
        most = max(largest // copies, int(least == 1))
        out.append(list(cut_pieces(text, begin, end, most)) if least <= most < end - begin else [(begin, end)])
    return out


def cut_pieces(text: TextBytes, begin: int, end: int, most: int) -> Iterator[ByteSpan]:
    """Pieces of at most `most` bytes, or of one character. A piece ends with a line if one ends in its second half."""
    while end - begin > most:
        place = text.rfind(b"\n", begin + most // 2, begin + most) + 1
        if not place:
            place = begin + most
            while place > begin and text[place] & 0xC0 == 0x80:
                place -= 1
        if place == begin:
            place = next((at for at in range(begin + 1, end) if text[at] & 0xC0 != 0x80), end)
        yield begin, place
        begin = place
    if begin < end:
        yield begin, end
