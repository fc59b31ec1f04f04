"""When a plain line is due, and how long the rest takes: progress where there is no terminal to draw in."""

import time

from hybridkit.report.numbers import format_duration

LINE_EVERY = 10.0  # seconds between plain lines


class Throttle:
    """Lets a line pass every LINE_EVERY seconds; the first passes at once."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def due(self, always: bool = False) -> bool:
        """Whether a line is due now, or `always` asks for one; if so, the next one waits."""
        now = time.monotonic()
        if not always and now - self._last < LINE_EVERY:
            return False
        self._last = now
        return True


class Eta:
    """The time until `total` is done, at the mean speed since `first` was."""

    def __init__(self, first: int = 0) -> None:
        self._first, self._begin = first, time.monotonic()

    def text(self, done: int, total: int) -> str:
        """`ETA 0:01:02`, or nothing before there is a speed."""
        fresh = done - self._first
        if fresh <= 0:
            return ""
        return f"ETA {format_duration((time.monotonic() - self._begin) / fresh * (total - done))}"
