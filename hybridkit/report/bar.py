"""What stands beside the live bar at the bottom of a terminal: as many fields as the width allows."""

from __future__ import annotations

from collections.abc import Sequence

_GAP = "  "
_CUT = 8  # characters that the last field keeps at least where it is cut


def fit(fields: Sequence[str], room: int) -> str:
    """The first fields that fit into `room` characters, the first always; the next one is cut where a part fits."""
    text = fields[0]
    for field in filter(None, (field.rstrip() and field for field in fields[1:])):
        space = room - len(text) - len(_GAP)
        if len(field) > space:
            cut = field.rstrip()
            whole = len(cut) <= space
            last = field is fields[-1] and space > _CUT
            return text + _GAP + (cut if whole else f"{cut[: space - 1]}…") if whole or last else text
        text += _GAP + field
    return text


def progress(done: float, total: float | None) -> str:
    """How far it is: ` 60/300`, or 1.2M/11.9M."""
    if total is None:
        return _number(done)
    most = _number(total)
    return f"{_number(done).rjust(len(most))}/{most}"


def _number(value: float) -> str:
    return f"{value / 1e6:,.1f}M" if value >= 1e6 else f"{value:.0f}"
