"""The canonical pattern: the shortest run-length form of a flat list, so that equal stacks print alike.

A list prints as elements with `, ` between them; an element is an entry, `entry*k`, or a repeated group `[list]*k`.
An entry of several branches, `a | b`, stands in brackets where it repeats: `[a | b]*k`.
Only a group whose base is primitive (no repetition itself) is tried: `[[a, b]*2]*3` is longer than `[a, b]*6`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_EXACT = 256  # entries, up to which every form is tried
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"')
_STARTS = 64  # beyond: a run of period p may begin a group at its first max(1, 64 // p) positions only


def canonical(entries: Sequence[str]) -> str:
    """The pattern of a flat list, given each entry's text; shortest in characters, ties go to longer first elements.

    Exact where the list, or the unit that the whole list repeats, has at most 256 entries. Beyond that, groups begin
    near the start of the stretch that repeats, which bounds the work; the result is still right, and still the same
    for equal lists. Expects at least one entry.
    """
    assert entries
    size = period(entries)
    times = len(entries) // size
    if size == 1:
        return _repeated(entries[0], times)
    return f"[{_Printer(entries[:size]).text(0, size)}]{_suffix(times)}"


def period(entries: Sequence[str]) -> int:
    """The length of the shortest unit that the whole list repeats, from its longest border (Knuth-Morris-Pratt)."""
    border = [0] * len(entries)
    length = 0
    for index in range(1, len(entries)):
        while length and entries[index] != entries[length]:
            length = border[length - 1]
        length += entries[index] == entries[length]
        border[index] = length
    shift = len(entries) - border[-1]
    return shift if len(entries) % shift == 0 else len(entries)


class _Printer:
    """A dynamic program over suffixes, run once for every distinct group."""

    def __init__(self, entries: Sequence[str]) -> None:
        self._entries = entries
        symbols = {text: symbol for symbol, text in enumerate(dict.fromkeys(entries))}
        self._symbols = tuple(symbols[text] for text in entries)
        self._repeats: list[list[tuple[int, int]]] = [[] for _ in entries]  # at each position: (period, most repeats)
        for start, period, most in _repeats(self._symbols):
            self._repeats[start].append((period, most))
        self._printed: dict[tuple[int, ...], str] = {}

    def text(self, start: int, end: int) -> str:
        """The shortest form of a stretch, without brackets around it."""
        key = self._symbols[start:end]
        if key not in self._printed:
            self._printed[key] = ", ".join(self._elements(start, end))
        return self._printed[key]

    def _elements(self, start: int, end: int) -> Iterator[str]:
        best = [(0, 0, 1, 1)] * (end + 1)  # from each position on: characters, -entries of the first element, p, k
        for at in reversed(range(start, end)):
            best[at] = min(
                (width + len(_suffix(times)) + 2 + best[at + period * times][0], -period * times, period, times)
                for period, repeats in self._choices(at, end)
                for width in [len(self._unit(at, period, repeats[0]))]
                for times in repeats
            )
        at = start
        while at < end:
            _, _, period, times = best[at]
            yield self._unit(at, period, times) + _suffix(times)
            at += period * times

    def _choices(self, at: int, end: int) -> Iterator[tuple[int, range]]:
        """What an element that begins here may be: its unit's length, and the repeats there is room for."""
        yield 1, range(1, 2)
        for period, most in self._repeats[at]:
            if (room := min(most, (end - at) // period)) > 1:
                yield period, range(2, room + 1)

    def _unit(self, at: int, period: int, times: int) -> str:
        """What stands before the repeat; `times` only matters as 1 or more."""
        if period == 1:
            return _bracketed(self._entries[at]) if times > 1 else self._entries[at]
        return f"[{self.text(at, at + period)}]"


def several(text: str) -> bool:
    """Whether an entry's text has several branches."""
    return "|" in text and "|" in _QUOTED.sub("", text)


def _bracketed(entry: str) -> str:
    return f"[{entry}]" if several(entry) else entry


def _repeated(entry: str, times: int) -> str:
    return entry if times == 1 else _bracketed(entry) + _suffix(times)


def _suffix(times: int) -> str:
    return f"*{times}" if times > 1 else ""


def _repeats(symbols: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(start, period, most repeats) of the stretches that repeat a primitive unit at least twice.

    Positions are bits of long integers: bit i of `same[p]` says that entry i equals entry i + p.
    """
    size = len(symbols)
    planes = [
        sum((symbol >> bit & 1) << at for at, symbol in enumerate(symbols)) for bit in range(max(symbols).bit_length())
    ]
    same: dict[int, int] = {}
    for period in range(1, size // 2 + 1):
        differs = 0
        for plane in planes:
            differs |= plane ^ plane >> period
        same[period] = ~differs & _ones(size - period)
        starts = _starts(same[period], period)
        while starts:
            start = (starts & -starts).bit_length() - 1
            rest = same[period] >> start
            run = (rest ^ (rest + 1)).bit_length() - 1  # entries from here on that equal the one a period later
            if all(~(same[part] >> start) & _ones(period - part) for part in _parts(period)):
                tried = run - period + 1 if size <= _EXACT else min(run - period + 1, max(1, _STARTS // period))
                yield from ((start + skip, period, 1 + (run - skip) // period) for skip in range(tried))
            starts &= ~_ones(start + run)


def _ones(count: int) -> int:
    return (1 << count) - 1


def _starts(bits: int, length: int) -> int:
    """Where `length` ones in a row begin."""
    have = 1
    while bits and have < length:
        step = min(have, length - have)
        bits &= bits >> step
        have += step
    return bits


def _parts(period: int) -> Iterator[int]:
    """The largest lengths that divide a period: it is primitive if the unit has none of them as its own period."""
    rest, prime = period, 2
    while prime * prime <= rest:
        if rest % prime == 0:
            yield period // prime
            while rest % prime == 0:
                rest //= prime
        prime += 1
    if rest > 1:
        yield period // rest
