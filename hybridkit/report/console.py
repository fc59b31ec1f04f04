"""The console, table and tree of all verbs: rich is imported here and in live.py alone.

All text is shown as it is. By default rich reads `[x]` in a name as markup and `:x:` as an emoji, and cuts lines at 80
characters when it writes to a pipe.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich import console as _console
from rich import table as _table
from rich.console import Group
from rich.text import Text
from rich.tree import Tree

from hybridkit.system.terminal import harmless, is_terminal, one_line

__all__ = ["Console", "Group", "Table", "Text", "Tree", "apart", "between", "styled"]

WIDE = 1 << 20  # columns of a pipe or file: no line is cut there
_PROSE = 100
_LEFT = 8  # characters that a folded column at the left keeps at least
_ENDS = "/\\-_. =,"  # a common beginning of names may end after one of these


class Console(_console.Console):
    """Draws text as it is, on standard output or error."""

    def __init__(self, stderr: bool = False) -> None:
        live = is_terminal(sys.stderr if stderr else sys.stdout)
        width = None if live else WIDE
        super().__init__(
            stderr=stderr, markup=False, emoji=False, highlight=False, force_terminal=live, width=width,
            soft_wrap=not live,
        )  # fmt: skip

    @property
    def prose(self) -> int:
        """Columns of running text: longer lines are hard to read. A pipe or file gets each paragraph as a line."""
        return min(self.width, _PROSE) if self.is_terminal else self.width

    def render_str(self, text: str, **settings: Any) -> Text:
        """rich calls this for every string that it draws."""
        return super().render_str(harmless(text), **settings)


class Table(_table.Table):
    """Columns without lines; those at the places `right` (all but the first) stand at the right. No cell is cut.

    Where a terminal is too narrow, the columns at the left fold first: they hold words, the others numbers.
    """

    def __init__(self, *columns: str, right: Iterable[int] | None = None) -> None:
        super().__init__(box=None, pad_edge=False)
        for name in columns:
            self.add_column(one_line(name), overflow="fold")
        self._right = list(range(1, len(columns)) if right is None else right)
        for at in self._right:
            self.columns[at].justify = "right"

    def add_row(self, *cells: Any, **settings: Any) -> None:
        """A cell is one line of text, or a `styled` one."""
        super().add_row(*(one_line(cell) if isinstance(cell, str) else cell for cell in cells), **settings)

    def __rich_console__(self, console: _console.Console, options: _console.ConsoleOptions) -> _console.RenderResult:
        for at, column in enumerate(self.columns):
            words = max(map(len, str(column.header).split()), default=0)  # between which a name may wrap
            least = max([words, *(len(str(cell)) for cell in column.cells)])
            column.min_width = least if at in self._right else min(least, _LEFT)
        if sum(column.min_width or 0 for column in self.columns) + 2 * (len(self.columns) - 1) > options.max_width:
            for column in self.columns:  # numbers fold, too, where nothing else helps: rich would cut them
                column.min_width = 1
        yield from super().__rich_console__(console, options)

    @property
    def whole(self) -> int:
        """The columns of a terminal that the table needs to be drawn without folding."""
        return sum(map(self._widest, range(len(self.columns)))) + 2 * (len(self.columns) - 1)

    def _widest(self, at: int) -> int:
        """The characters of a column's widest cell, its name included."""
        column = self.columns[at]
        return max(len(str(cell)) for cell in (column.header, *column.cells))


def styled(*parts: str | tuple[str, str]) -> Text:
    """A text of parts, each alone or with its style: `styled(("name", "bold"), " and more")`."""
    said = (part if isinstance(part, tuple) else (part, "") for part in parts)
    return Text.assemble(*((one_line(text), style) for text, style in said))


def apart(names: Iterable[str]) -> tuple[str, list[str]]:
    """The common beginning of several names, up to the end of a word, and the rest of each name."""
    names = list(names)
    first, last = min(names, default=""), max(names, default="")  # in this order all names share what these two share
    alike = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    common = first[: max(first.rfind(end, 0, alike) for end in _ENDS) + 1] if first != last else ""
    return common, [name[len(common) :] for name in names]


def between(names: Iterable[str]) -> tuple[str, list[str]]:
    """What several names share at both ends, as `runs/...-7b`, and what stands between, which is never empty."""
    begin, rests = apart(names)
    reversed_end, middles = apart(rest[::-1] for rest in rests)
    if not all(middles):
        return begin and f"{begin}...", rests
    return (f"{begin}...{reversed_end[::-1]}" if begin or reversed_end else ""), [name[::-1] for name in middles]
