"""Which text is held out. It depends on the text alone, not on the seed or other settings.

A document is held out by a hash of its bytes, so equal documents are on the same side. A document that
is too large for one side is cut into pieces, each hashed with its place in the document. Where the amounts then
still miss `data.validation` by more than `TOLERANCE`, as they may with few documents, some change
sides, in the order of their hashes.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from hybridkit.recipe.rules import CURRENT_RULES
from hybridkit.system.errors import UserError

SPLIT_TOLERANCE = 0.25  # of the smaller side's share
_LEAST = (64, 8, 1)  # bytes of a piece at least; fewer where all longer ones are copies
ByteSpan = tuple[int, int]  # where a document, or a stretch of one, begins and ends in the text
TextBytes = bytes | mmap.mmap


def split(
    text: TextBytes, ends: Sequence[int], hashes: np.ndarray, fraction: float, rules: int = CURRENT_RULES
) -> tuple[list[ByteSpan], list[ByteSpan]]:
    """The training and the held-out stretches of documents that end at `ends` and have `hashes`, each in order.

    Raises UserError for a text of a single character.
    """
    if len(ends) == 1:
        place = cut_place(text[:], fraction, rules)
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
    """A number in [0, 2**64) that says where the text falls in the split; equal texts fall together."""
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8, person=b"held out").digest(), "big")


def held_out_pieces(hashes: np.ndarray, fraction: float, sizes: np.ndarray | None = None) -> np.ndarray:
    """Which pieces validate: (P,) bool of their hashes, uint64, and sizes, by default equal; copies fall together.

    The sizes held out are `fraction` of all, within `TOLERANCE` of the smaller share, if equal pieces together have
    at most twice the tolerance. What has more goes to the larger side. Either side has a piece if two differ.
    """
    keys, group = np.unique(hashes, return_inverse=True)
    amounts = np.bincount(group, weights=sizes)  # (G,) in the order of the hashes
    aim, slack = fraction * amounts.sum(), SPLIT_TOLERANCE * min(fraction, 1 - fraction) * amounts.sum()
    larger = fraction > 0.5
    chosen = (amounts > 2 * slack) & larger
    small = np.flatnonzero(amounts <= 2 * slack)
    held = amounts[chosen].sum() + np.concatenate([[0.0], np.cumsum(amounts[small])])  # by how many of the small ones
    count = int((keys[small] < np.uint64(fraction * 2.0**64)).sum())
    least, most = np.searchsorted(held, aim - slack), np.searchsorted(held, aim + slack, "right") - 1
    count = min(max(count, int(least)), max(int(most), 0), len(small))
    chosen[small[:count]] = True
    if len(keys) > 1 and chosen.all() | ~chosen.any():
        chosen[np.abs(amounts - min(aim, amounts.sum() - aim)).argmin()] ^= True
    return chosen[group]


def held_out_of_rules_1(hashes: np.ndarray, fraction: float) -> np.ndarray:
    """Which documents validate in runs of the first rules: about `fraction` of them by number, whatever their size."""
    chosen = hashes < np.uint64(fraction * 2.0**64)
    if len(hashes) > 1 and not chosen.any():
        chosen[hashes.argmin()] = True
    if len(hashes) > 1 and chosen.all():
        chosen[hashes.argmax()] = False
    return chosen


def cut_place(raw: bytes, fraction: float, rules: int = CURRENT_RULES) -> int:
    """Where a corpus of one document is cut, the held-out part last: the line end nearest to `fraction` from its end.

    Where no line ends within `TOLERANCE` of it (by rules 1: anywhere), between two characters. Raises UserError if it
    has fewer than two characters.
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
            number if len(one) == 1 else document_hash(b"%d of %d" % (place, number))  # the same of equal documents
            for one, number in zip(pieces, hashes.tolist(), strict=True)
            for place in range(len(one))
        ]
        sizes = np.array([end - begin for one in pieces for begin, end in one])
        held = held_out_pieces(np.array(numbers, np.uint64), fraction, sizes)
        if held.any() and not held.all():
            return pieces, held
    return pieces, np.arange(len(held)) == 0  # a character again and again


def _pieces(
    text: TextBytes, spans: list[ByteSpan], hashes: np.ndarray, fraction: float, least: int
) -> list[list[ByteSpan]]:
    """Each document whole, or in pieces where it and its copies together are larger than held_out can balance.

    The largest size is a power of two, so that what is added to a corpus seldom changes it.
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
    """Pieces of at most `most` bytes (or one character), cut where lines end if one does in their second half."""
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
