"""Which documents are held out: a property of each document's bytes, whatever else the corpus holds."""

from __future__ import annotations

import hashlib

import numpy as np

from hybridkit.errors import UserError


def document_hash(raw: bytes) -> int:
    """A number in [0, 2**64) that says where the document falls in the split; equal documents fall together."""
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8, person=b"held out").digest(), "big")


def held_out(hashes: np.ndarray, fraction: float) -> np.ndarray:
    """Which documents validate: (documents,) bool of uint64 hashes, about `fraction` of them.

    Of two or more documents at least one is on either side.
    """
    chosen = hashes < np.uint64(fraction * 2.0**64)
    if len(hashes) > 1 and not chosen.any():
        chosen[hashes.argmin()] = True
    if len(hashes) > 1 and chosen.all():
        chosen[hashes.argmax()] = False
    return chosen


def cut(raw: bytes, fraction: float) -> int:
    """Where a corpus of one document is cut, the held-out part last: the line end nearest to `fraction` from its end.

    Where no line ends inside, between two characters. Raises UserError if it has fewer than two characters.
    """
    aim = max(1, min(round(len(raw) * (1 - fraction)), len(raw) - 1))
    before, after = raw.rfind(b"\n", 0, aim) + 1, raw.find(b"\n", aim) + 1
    places = [place for place in (before, after) if 0 < place < len(raw)]
    if places:
        return min(places, key=lambda place: abs(place - aim))
    near = range(max(1, aim - 3), min(aim + 4, len(raw)))  # a character has at most 4 bytes
    starts = [place for place in near if raw[place] & 0xC0 != 0x80]
    if not starts:
        raise UserError("data.source: the corpus is a single character; training and validation need more text")
    return min(starts, key=lambda place: abs(place - aim))
