"""The training line: what stays at every width of a terminal, and in which order the rest appears."""

import pytest

from hybridkit.report.bar import fit, progress
from hybridkit.report.numbers import format_ratio, format_speed
from hybridkit.report.progress import Bar, bar_fields, reporter

LINE = {"loss": 2.6508, "tokens_per_second": 11267.0, "window": 2048, "mfu": 0.412}
FIELDS = ["100000/100000", "ETA 12:34:56", *bar_fields(LINE, 2.6193, 0.987), "runs/a-long-name-of-a-run"]


@pytest.mark.parametrize("room", range(55, 200))
def test_fields_are_dropped_from_the_least_important_on(room: int) -> None:
    text = fit(FIELDS, room)
    assert len(text) <= room
    kept = [field for field in FIELDS if field in text]
    assert kept == FIELDS[: len(kept)] and len(kept) >= 4, "step, ETA, loss and tokens/s stay at 60 columns"


def test_a_wide_terminal_shows_everything() -> None:
    assert fit(FIELDS, 195) == "  ".join(FIELDS) and "val 2.6193  window 2048  bits 0.987  MFU 41.2%" in "  ".join(
        FIELDS
    )
    assert fit(["1/2", "", "x"], 9) == "1/2  x", "an empty field takes no room"


@pytest.mark.parametrize(("term", "live"), [("xterm-256color", True), ("dumb", False)])
def test_a_terminal_that_cannot_redraw_gets_lines(term: str, live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert isinstance(reporter(), Bar) == live


def test_counts_speeds_and_ratios_are_short() -> None:
    assert [progress(20, 300), progress(1.2e6, 11.9e6), progress(7, None)] == [" 20/300", " 1.2M/11.9M", "7"]
    assert [format_speed(n) for n in (11.4, 987, 11267, 1.25e6)] == ["11", "987", "11.3k", "1.25M"]
    assert [format_ratio(n, 10) for n in (9.7, 32790, 0.1, 0, 10)] == ["-3.0%", "3,279x", "1/100", "0", "+0.0%"]
    assert format_ratio(3, 0) == "-"
