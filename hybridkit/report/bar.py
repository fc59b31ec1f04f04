"""The live line at the bottom of a terminal: a bar, how far it is, the time left, and figures as the width allows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import progress as _progress
from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.segment import Segment

from hybridkit.report.console import Console
from hybridkit.report.numbers import format_duration
from hybridkit.system.terminal import one_line

LEAST, MOST = 4, 24  # columns of the bar
_GAP = "  "
_CUT = 8  # characters that the last field keeps at least where it is cut


class Progress(_progress.Progress):
    """One live line: what is done of how much, and fields in the order of their importance."""

    def __init__(self, *, stderr: bool = False, transient: bool = False) -> None:
        super().__init__(console=Console(stderr=stderr), transient=transient)
        self._bar, self._what = self.add_task("", total=None, fields=()), ""
        self._widths: list[int] = []

    def show(self, what: str, done: int, total: int | None, *fields: str) -> None:
        """Move the bar; `what` is the last field. Where it is another than before, the clock starts again."""
        if what != self._what:
            self.reset(self._bar, description=what)
            self._what, self._widths = what, []
        self.update(self._bar, completed=done, total=total, fields=(*fields, what))

    def get_renderables(self) -> Iterable[RenderableType]:
        """rich draws these."""
        if not self.tasks:  # rich asks before there is one
            return
        (task,) = self.tasks
        shown = list(map(one_line, task.fields["fields"]))
        known = self._widths + [0] * (len(shown) - len(self._widths))
        self._widths = [max(pair) for pair in zip(known, map(len, shown), strict=False)]  # no field moves another
        yield _Line(task, [text.ljust(width) for text, width in zip(shown, self._widths, strict=True)])


class _Line:
    def __init__(self, task: _progress.Task, fields: Sequence[str]) -> None:
        self._task, self._fields = task, fields

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        task, total = self._task, self._task.total
        count = _count(task.completed, total)
        text = fit([count, _left(task), *self._fields], options.max_width - LEAST - 1)
        width = min(MOST, options.max_width - len(text) - 1)
        if width >= LEAST:
            yield ProgressBar(total, task.completed, width=width, pulse=not total)
            yield Segment(" ")
        yield Segment(text[: options.max_width])
        yield Segment.line()


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


def _count(done: float, total: float | None) -> str:
    if total is None:
        return _number(done)
    most = _number(total)
    return f"{_number(done).rjust(len(most))}/{most}"


def _number(value: float) -> str:
    return f"{value / 1e6:,.1f}M" if value >= 1e6 else f"{value:.0f}"


def _left(task: _progress.Task) -> str:
    if task.finished:
        return f"in {format_duration(task.finished_time or 0)} "
    left = task.time_remaining if task.total else None
    return "ETA -:--:--" if left is None else f"ETA {format_duration(left)}"
