"""The training line: what stays at every width of a terminal, and in which order the rest appears."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from hybridkit.report.bar import fit, progress
from hybridkit.report.live import Progress
from hybridkit.report.numbers import format_ratio, format_speed
from hybridkit.report.progress import Bar, bar_fields, reporter
from hybridkit.training.callback import TrainingStart

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


def test_without_colours_the_rest_of_a_bar_is_drawn_too() -> None:
    """rich draws only what is done: the figures beside it would move with every step."""
    console = Console(file=io.StringIO(), width=80, force_terminal=True, no_color=True, color_system="truecolor")
    lines = []
    for step in (0, 1, 15, 30):
        progress = Progress()
        progress.show("runs/a", step, 30, "loss 2.6508")
        with console.capture() as drawn:
            console.print(*progress.get_renderables())
        lines.append(drawn.get().rstrip("\n"))
    assert len({line.index("/30") for line in lines}) == 1 and lines[0].startswith("─" * 20)
    assert [line.count("━") for line in lines[::3]] == [0, 24]


def test_a_pause_without_figures_leaves_no_gap_behind() -> None:
    progress = Progress()
    for fields in ((), ("validating",), ("loss 2.6508", "9k tok/s")):
        progress.show("runs/a-long-name-of-a-run", 5, 30, *fields)
        with progress.console.capture() as drawn:
            progress.console.print(*progress.get_renderables(), width=120)
    assert "loss 2.6508  9k tok/s  runs/a-long-name-of-a-run" in drawn.get()


def test_what_is_said_of_a_whole_run_stands_below_its_bar(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar()
    bar.on_start(TrainingStart(Path("runs/a"), 0, 30, []))
    bar.on_step({**LINE, "step": 30}, None)
    bar.finished()
    bar.message("done: 30 steps")
    bar.on_end()
    text = capsys.readouterr().out
    assert text.rindex("30/30") < text.index("done: 30 steps")
