"""How training goes: a bar in a terminal, plain lines elsewhere (a log file, a pipe)."""

import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from hybridkit.report.console import Progress
from hybridkit.system.terminal import say
from hybridkit.training.reporter import Reporter

LINES = 100  # plain lines of a run


def reporter() -> Reporter:
    """The one for this standard output."""
    return Bar() if sys.stdout.isatty() else Lines()


def figures(line: Mapping[str, Any], bits_per_byte: float | None) -> str:
    """A metrics line in words, without its step."""
    if "val_loss" in line:
        bits = line["val_bits_per_byte"]
        said = f"validation loss {format_loss(line['val_loss'])}"
        return said if bits is None else f"{said}  bits/byte {bits:.4f}"
    bits_said = f"  bits/byte {bits_per_byte:.3f}" if bits_per_byte is not None else ""
    speed = f"{line['tokens_per_second']:,.0f} tokens/s"
    return f"loss {format_loss(line['loss'])}{bits_said}{_window(line['window'])}  {speed}"


def format_loss(loss: float | None) -> str:
    """A loss as people read it: a dash where no target was counted."""
    return "-" if loss is None else f"{loss:.4f}"


def _window(window: int | Mapping[str, int] | None) -> str:
    if window is None:
        return ""
    drawn = [window] if isinstance(window, int) else sorted(set(window.values()))
    return "  window " + "/".join(map(str, drawn))


class Lines:
    """Plain text, some hundred lines a run."""

    def __init__(self) -> None:
        self._steps, self._begin, self._first = 1, 0.0, 0

    def start(self, run: Path, step: int, steps: int) -> None:
        """Say where the run begins."""
        self._steps, self._first, self._begin = steps, step, time.monotonic()
        say(f"training in {run}, from step {step} of {steps}")

    def step(self, line: Mapping[str, Any], bits_per_byte: float | None) -> None:
        """A line for the first step, the last, and some in between."""
        step = line["step"]
        if step == self._first + 1 or step == self._steps or step % max(1, self._steps // LINES) == 0:
            left = (time.monotonic() - self._begin) / (step - self._first) * (self._steps - step)
            eta = timedelta(seconds=round(left))
            say(f"step {step}/{self._steps}  {figures(line, bits_per_byte)}  ETA {eta}")

    def validation(self, line: Mapping[str, Any]) -> None:
        """Always a line."""
        say(f"step {line['step']}/{self._steps}  {figures(line, None)}")

    def message(self, text: str) -> None:
        """As it is."""
        say(text)

    def preparing(self, what: str, done: int, total: int | None) -> None:
        """Once for each thing that is done."""
        if total is not None and done >= total:
            say(f"{what}: {total / 1e6:,.1f} MB")

    def end(self) -> None:
        """Nothing is left open."""


class Bar:
    """A live bar at the bottom of a terminal; validations and messages scroll above it."""

    def __init__(self) -> None:
        self._bar = Progress()
        self._task = self._bar.add_task("data", total=None, figures="")

    def start(self, run: Path, step: int, steps: int) -> None:
        """From here on the bar counts steps."""
        self._bar.start()
        self._bar.reset(self._task, description=str(run), total=steps, completed=step, figures="")

    def step(self, line: Mapping[str, Any], bits_per_byte: float | None) -> None:
        """The figures beside the bar."""
        self._bar.update(self._task, completed=line["step"], figures=figures(line, bits_per_byte))

    def validation(self, line: Mapping[str, Any]) -> None:
        """A line above the bar."""
        self.message(f"step {line['step']}  {figures(line, None)}")

    def message(self, text: str) -> None:
        """A line above the bar."""
        self._bar.console.print(text)

    def preparing(self, what: str, done: int, total: int | None) -> None:
        """The corpus is being read; bytes."""
        self._bar.start()
        self._bar.update(self._task, description=what, completed=done, total=total)

    def end(self) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()
