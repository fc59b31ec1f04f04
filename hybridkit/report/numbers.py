"""Numbers as people read them: counts, bytes, tokens, losses and durations."""

import re
from collections.abc import Sequence
from datetime import timedelta

_MOST_SECONDS = 1e9  # what is longer is shown as this: timedelta overflows
_DURATION = re.compile(r"(?:(\d+) days?, )?(\d+):(\d\d):(\d\d)")
_NUMBER = re.compile(r"([+-]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:e[+-]?\d+)?)(?:/([\d,]+))?( ?)([A-Za-z%]*)(?=$|[\s/,±\[(])")
_UNITS = {"k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}


def format_tokens(number: int) -> str:
    """A number of tokens as the command line takes it: 1000, 16k, 1M."""
    for unit, letter in ((1 << 20, "M"), (1 << 10, "k")):
        if number and number % unit == 0:
            return f"{number // unit}{letter}"
    return str(number)


def format_count(number: float) -> str:
    """A count with a decimal unit: 6.174 G."""
    return _scaled(number, 1000, ("", "k", "M", "G", "T", "P", "E"))


def format_bytes(number: float) -> str:
    """Bytes with a binary unit: 24.05 MiB."""
    return _scaled(number, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"))


def format_parameters(number: int) -> str:
    """A number of parameters in the units of the literature: 1.49 B for 1,490,000,000."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return str(number)


def format_weights(number: float) -> str:
    """The same with four digits, for columns that are compared: 1.489 B."""
    return _scaled(number, 1000, ("", "k", "M", "B", "T"))


def format_loss(loss: float | None) -> str:
    """A loss with four decimals; a dash where there is none, since a step had no targets."""
    return "-" if loss is None else f"{loss:.4f}"


def format_speed(rate: float) -> str:
    """Units a second, in few characters: 987, 11.3k, 1.25M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if rate >= size:
            return f"{rate / size:.3g}{letter}" if rate < 1000 * size else f"{rate / size:,.0f}{letter}"
    return f"{rate:.0f}"


def format_ratio(figure: float, first: float) -> str:
    """How a figure compares with the first one: +12.3%, or from ten times on, 3,279x and 1/3,279."""
    if not first:
        return "-"
    ratio = figure / first
    if 0.1 < ratio < 10:
        return f"{ratio - 1:+.1%}"
    return f"{ratio:,.0f}x" if ratio >= 10 else f"1/{first / figure:,.0f}" if figure else "0"


def format_duration(seconds: float) -> str:
    """Hours, minutes and whole seconds: 1:02:03."""
    return str(timedelta(seconds=round(min(seconds, _MOST_SECONDS))))


def read_number(text: str, is_bytes: bool = False) -> float | None:
    """The number at the beginning of what these functions write, to sort by; None for other text.

    `B` are bytes where `is_bytes` holds, else billions, as in numbers of parameters.
    """
    if duration := _DURATION.fullmatch(text):
        days, hours, minutes, seconds = (int(part or 0) for part in duration.groups())
        return ((24 * days + hours) * 60 + minutes) * 60 + seconds
    found = _NUMBER.match(text)
    if not found:
        return None
    digits, divisor, space, unit = found.groups()
    number = float(digits.replace(",", "")) / (float(divisor.replace(",", "")) or 1 if divisor else 1)
    if unit[1:] == "iB":
        return number * 1024 ** ("kMGTPE".index(unit[0].replace("K", "k")) + 1)
    if unit[:1] in _UNITS and unit[1:] in ("", "B", "FLOP", "FLOPs"):
        return number if unit == "B" and is_bytes else number * _UNITS[unit[0]]
    if unit == "%" and text[0] in "+-":  # a ratio, beside others such as 12x
        return 1 + number / 100
    return number if space or unit in ("", "x", "%") else None


def _scaled(number: float, base: int, units: Sequence[str]) -> str:
    place = 0
    while number >= base and place < len(units) - 1:
        number, place = number / base, place + 1
    # Four digits, and as many more as stand before the point: 1023 MiB.
    digits = max(0, 3 - len(str(int(number))) + 1) if place else 0
    return f"{number:.{digits}f} {units[place]}".rstrip()
