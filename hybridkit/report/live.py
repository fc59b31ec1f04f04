"""The live line and tables of long verbs, apart from console.py, so that verbs which only print do not import them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import progress as _progress
from rich.console import Console as _Plain
from rich.console import ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment

from hybridkit.report.bar import fit, progress
from hybridkit.report.console import Console
from hybridkit.report.numbers import format_duration
from hybridkit.system.terminal import one_line

__all__ = ["Live", "Progress"]

_LEAST, _MOST = 4, 24  # columns of a bar


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
        if not self.tasks or not self._what:  # rich asks before there is one, and before it is known what is done
            return
        (task,) = self.tasks
        *shown, what = map(one_line, task.fields["fields"] or ("",))
        known = self._widths + [0] * (len(shown) - len(self._widths))
        self._widths = [max(pair) for pair in zip(known, map(len, shown), strict=False)]  # no field moves another
        yield _Line(task, [*(text.ljust(width) for text, width in zip(shown, self._widths, strict=False)), what])


class _Line:
    def __init__(self, task: _progress.Task, fields: Sequence[str]) -> None:
        self._task, self._fields = task, fields

    def __rich_console__(self, console: _Plain, options: ConsoleOptions) -> RenderResult:
        task, total = self._task, self._task.total
        done = [progress(task.completed, total), _left(task)] if total or task.completed else []
        text = fit([*done, *self._fields], options.max_width - _LEAST - 1)
        width = min(_MOST, options.max_width - len(text) - 1)
        if width >= _LEAST:
            yield from _bar(ProgressBar(total, task.completed, width=width, pulse=not total), console, options)
        yield Segment(text[: options.max_width])
        yield Segment.line()


def _bar(bar: ProgressBar, console: _Plain, options: ConsoleOptions) -> RenderResult:
    """The bar and a blank. Without colours rich draws only what is done: the rest is a thinner line here."""
    drawn = [part for part in bar.__rich_console__(console, options) if isinstance(part, Segment)]
    rest = (bar.width or 0) - sum(part.cell_length for part in drawn)
    yield from drawn
    yield Segment((" " if options.ascii_only else "─") * rest + " ")


def _left(task: _progress.Task) -> str:
    if task.finished:
        return f"in {format_duration(task.finished_time or 0)} "
    left = task.time_remaining if task.total else None
    return "ETA -:--:--" if left is None else f"ETA {format_duration(left)}"
