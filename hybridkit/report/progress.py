"""How training and evaluation go: a bar in a terminal, plain lines elsewhere (a log file, a pipe)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hybridkit.report.live import Progress
from hybridkit.report.numbers import format_loss, format_speed
from hybridkit.report.pace import Eta, Throttle
from hybridkit.system.terminal import redraws, say
from hybridkit.training.callback import TrainingStart
from hybridkit.training.logger import written_texts
from hybridkit.training.reporter import Reporter

if TYPE_CHECKING:
    from hybridkit.evaluation.request import EvalProgress

LINES = 100  # plain lines of a run


def reporter() -> Reporter:
    """What shows training on this standard output."""
    return Bar() if redraws(sys.stdout) else PlainLines()


def figures(line: Mapping[str, Any], bits_per_byte: float | None) -> str:
    """A metrics line in words, without its step."""
    if "val_loss" in line:
        bits = line["val_bits_per_byte"]
        said = f"validation loss {format_loss(line['val_loss'])}"
        return said if bits is None else f"{said}  bits/byte {bits:.4f}"
    bits_said = f"  bits/byte {bits_per_byte:.3f}" if bits_per_byte is not None else ""
    speed = f"{line['tokens_per_second']:,.0f} tokens/s"
    return f"loss {format_loss(line['loss'])}{bits_said}{_window(line['window'])}  {speed}"


def probed(line: Mapping[str, Any]) -> str:
    """The figures of a probe's line in words: shares in percent, and what was written."""
    found = [f"{name.removeprefix('probe.')} {value:.1%}" for name, value in line.items() if isinstance(value, float)]
    written = [f"wrote {one['text']!r}" for one in written_texts(line)]
    return "  ".join([*found, *written])


def _window(window: int | str | Mapping[str, int | str] | None) -> str:
    if window is None:
        return ""
    drawn = (
        sorted(set(window.values()), key=lambda one: (isinstance(one, str), one))
        if isinstance(window, Mapping)
        else [window]
    )
    return "  window " + "/".join(map(str, drawn))


def bar_fields(line: Mapping[str, Any], held_out: float | None, bits_per_byte: float | None) -> list[str]:
    """The figures of a metrics line, the most important first."""
    mfu = line.get("mfu")
    return [
        f"loss {format_loss(line['loss'])}",
        f"{format_speed(line['tokens_per_second'])} tok/s",
        "" if held_out is None else f"val {held_out:.4f}",
        _window(line["window"]).strip(),
        "" if bits_per_byte is None else f"bits {bits_per_byte:.3f}",
        "" if mfu is None else f"MFU {mfu:.1%}",
    ]


class PlainLines(Reporter):
    """About a hundred plain lines a run."""

    def __init__(self) -> None:
        self._steps, self._first, self._eta = 1, 0, Eta()

    def on_start(self, start: TrainingStart) -> None:
        """Say where the run begins."""
        self._steps, self._first, self._eta = start.steps, start.step, Eta(start.step)
        say(f"training in {start.run}, from step {start.step} of {start.steps}")

    def on_step(self, line: Mapping[str, Any], bits_per_byte: float | None) -> None:
        """A line for the first step, the last, and some in between."""
        step = line["step"]
        if step == self._first + 1 or step == self._steps or step % max(1, self._steps // LINES) == 0:
            say(f"step {step}/{self._steps}  {figures(line, bits_per_byte)}  {self._eta.text(step, self._steps)}")

    def on_validation(self, line: Mapping[str, Any]) -> None:
        """Always a line."""
        say(f"step {line['step']}/{self._steps}  {figures(line, None)}")

    def on_probe(self, line: Mapping[str, Any]) -> None:
        """Always a line."""
        say(f"step {line['step']}/{self._steps}  {probed(line)}")

    def message(self, text: str) -> None:
        """The text itself."""
        say(text)

    def preparing(self, what: str, done: int, total: int | None) -> None:
        """A line when a part of the corpus is ready."""
        if total is not None and done >= total:
            say(f"{what}: {total / 1e6:,.1f} MB")


class Bar(Reporter):
    """A live bar at the bottom of a terminal; validations and messages scroll above it."""

    def __init__(self) -> None:
        self._bar, self._run, self._steps = Progress(), "", 0
        self._held_out: float | None = None  # the newest loss of a validation
        self._last: tuple[Mapping[str, Any], float | None] | None = None

    def on_start(self, start: TrainingStart) -> None:
        """From here on the bar counts steps."""
        self._run, self._steps = str(start.run), start.steps
        known = [line["val_loss"] for line in start.lines if line.get("val_loss") is not None]
        self._held_out = known[-1] if known else None
        self._bar.start()
        self._bar.show(self._run, start.step, start.steps)

    def on_step(self, line: Mapping[str, Any], bits_per_byte: float | None) -> None:
        """The bar moves; the figures stand beside it."""
        self._last = line, bits_per_byte
        self._move()

    def _move(self) -> None:
        if self._last:
            line, bits_per_byte = self._last
            self._bar.show(self._run, line["step"], self._steps, *bar_fields(line, self._held_out, bits_per_byte))

    def doing(self, what: str) -> None:
        """It stands in place of the figures until the next of them."""
        if self._last:
            self._bar.show(self._run, self._last[0]["step"], self._steps, what)

    def on_validation(self, line: Mapping[str, Any]) -> None:
        """A line above the bar."""
        self._held_out = line["val_loss"] if line["val_loss"] is not None else self._held_out
        self.message(f"step {line['step']}  {figures(line, None)}")
        self._move()

    def on_probe(self, line: Mapping[str, Any]) -> None:
        """A line above the bar."""
        self.message(f"step {line['step']}  {probed(line)}")
        self._move()

    def message(self, text: str) -> None:
        """A line above the bar."""
        self._bar.console.print(text)

    def preparing(self, what: str, done: int, total: int | None) -> None:
        """The bar counts the bytes of the corpus that are read."""
        self._bar.start()
        self._bar.show(what, done, total)

    def finished(self) -> None:
        """The bar stays where it is, above what is said of the run."""
        self._bar.stop()

    def on_end(self) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()


@contextmanager
def watching() -> Iterator[EvalProgress]:
    """Shows on standard error what an evaluation does: a bar in a terminal, plain lines elsewhere."""
    if not redraws(sys.stderr):
        yield _EvalLines()
        return
    with Progress(stderr=True, transient=True) as bar:
        bar.show("opening runs and texts", 0, None)
        yield bar.show


class _EvalLines:
    """A line when a part begins and when it ends, and one every few seconds in between."""

    def __init__(self) -> None:
        self._what, self._eta, self._throttle = "", Eta(), Throttle()

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._what, self._eta, self._throttle = what, Eta(done), Throttle()
        if self._throttle.due(always=done == total):
            say(", ".join(filter(None, (f"{what}: {done}/{total}", self._eta.text(done, total)))), file=sys.stderr)
