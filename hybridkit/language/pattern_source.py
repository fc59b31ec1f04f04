"""Where a pattern's text stands, so that errors can point into it."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import NamedTuple

from hybridkit.system.errors import UserError
from hybridkit.system.terminal import printable

Span = tuple[int, int]  # offsets in the pattern's text: the first character, and the one after the last

_SHOWN = 100  # characters of a source line that a message shows


class SourceLine(NamedTuple):
    """One line of a pattern's text: its number in the file and the column it begins in (both from 1), and all of it."""

    number: int
    column: int
    raw: str


@dataclass(frozen=True)
class PatternSource:
    r"""Where each line of a pattern's text stands; `lines` has one element for each `\n`-separated line of the text.

    A line of the text is a part of its `raw` line: its character c stands in column `column + c`. A reader may
    therefore remove text (comments, indentation) at the ends of a line only.
    """

    file: str | None
    lines: tuple[SourceLine, ...]

    @classmethod
    def inline(cls, text: str) -> PatternSource:
        """The source of a text that stands in no file: a Python string, an override on the command line."""
        return cls(None, tuple(SourceLine(number, 1, raw) for number, raw in enumerate(text.split("\n"), start=1)))

    def locate(self, text: str, offset: int) -> tuple[SourceLine, int]:
        """The line on which `offset` of the pattern's text stands, and its column there, from 1."""
        line = self.lines[text.count("\n", 0, offset)]
        return line, line.column + offset - (text.rfind("\n", 0, offset) + 1)


class PatternError(UserError):
    """A mistake in a pattern: file, line and column, what is wrong, the source line, and a caret under the place."""

    def __init__(self, file: str | None, line: SourceLine, column: int, length: int, message: str) -> None:
        self.file, self.line, self.column = file, line.number, column
        super().__init__(f"{file or 'pattern'}:{line.number}:{column}: {message}\n{_drawn(line.raw, column, length)}")


def error_at(
    source: PatternSource | None, text: str, span: Span, message: str, did_you_mean: str | None = None
) -> PatternError:
    """The error to raise for `span` of the pattern `text`; `source` None: the text stands in no file."""
    source = source or PatternSource.inline(text)
    line, column = source.locate(text, span[0])
    end = text.find("\n", span[0])
    length = min(span[1], end if end >= 0 else len(text)) - span[0]
    if did_you_mean is not None:
        message += f"; did you mean `{did_you_mean}`?"
    return PatternError(source.file, line, column, length, message)


def _drawn(raw: str, column: int, length: int) -> str:
    """The line, cut to what fits, and carets under `length` characters of it from `column` on."""
    begin = max(0, min(column - 1 - _SHOWN // 2, len(raw) - _SHOWN))
    window = printable(raw[begin : begin + _SHOWN])
    at = column - 1 - begin
    before, under = sum(map(_cells, window[:at])), sum(map(_cells, window[at : at + length]))
    return f"  {window.rstrip()}\n  {' ' * before}{'^' * max(1, under)}"


def _cells(char: str) -> int:
    """The columns that a terminal gives to a character: 2 for a wide one, 0 for one that combines."""
    return 0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
