"""Syntax errors of patterns, in words for people who know patterns but no parsers."""

from __future__ import annotations

import re
from collections.abc import Set
from typing import NamedTuple

from lark import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from hybridkit.language.pattern_source import PatternError, PatternSource, error_at
from hybridkit.system.terminal import character, shown

_MARKS = {"LPAR": "`(`", "COLON": "`:`", "STAR": "`*`", "VBAR": "`|`", "EQUAL": "`=`", "COMMA": "`,`"}
_MARKS |= {"RPAR": "`)`", "RSQB": "`]`"}
_CLOSES = {"]": "[", ")": "("}
BRACKETS = re.compile(r'"(?:\\.|[^"\\\n])*"|[][()]')  # matches quoted text, too, so that brackets in it are passed over
_LONGEST = 60  # characters of a pattern that a message quotes


class _Stop(NamedTuple):
    """Where the parser stopped: what it found there, what it could have gone on with, and what stands before."""

    found: str  # the name of a terminal, JUNK or $END
    text: str
    offset: int
    expected: Set[str]
    last: str | None  # the terminal before it
    open: tuple[re.Match[str], ...]  # the brackets not yet closed


def syntax_error(error: UnexpectedInput, text: str, source: PatternSource | None) -> PatternError:
    """The error for where the parser stopped in `text`: the place, what was expected, advice on common mistakes."""
    stop = _stop(error, text)
    early = "the pattern ends too early" if text.strip() else "no pattern"
    unseen = len(stop.text) == 1 and not stop.text.isprintable()
    found = f"unexpected {character(stop.text) if unseen else shown(stop.text)}" if stop.text else early
    message = "; ".join(filter(None, (f"{found}: expected {_wanted(stop.expected)}", _advice(stop, text, source))))
    return error_at(source, text, (stop.offset, stop.offset + len(stop.text)), message)


def _stop(error: UnexpectedInput, text: str) -> _Stop:
    if isinstance(error, UnexpectedToken) and error.token.type != "$END":
        found, word, offset = error.token.type, str(error.token), error.token.start_pos or 0
    elif isinstance(error, UnexpectedCharacters):
        found, word, offset = "JUNK", error.char, error.pos_in_stream or 0
    else:
        found, word, offset = "$END", "", len(text.rstrip())
    opened = _unclosed(text[:offset])
    expected = set(error.accepts if isinstance(error, UnexpectedToken) else error.allowed)  # type: ignore[attr-defined]
    if not opened:  # the lexer does not count brackets, and allows `]` everywhere
        inner = expected & {"COMMA", "RSQB"}
        expected = expected - inner | ({"$END"} if inner else set())  # nor does it know where the text may end
    last = (error.token_history or [None])[-1]  # type: ignore[attr-defined]
    return _Stop(found, word, offset, expected, last.type if last else None, opened)


def _unclosed(text: str) -> tuple[re.Match[str], ...]:
    opened: list[re.Match[str]] = []
    for mark in BRACKETS.finditer(text):
        if mark[0] in _CLOSES:
            opened.pop()
        elif mark[0] in _CLOSES.values():
            opened.append(mark)
    return tuple(opened)


def _wanted(expected: Set[str]) -> str:
    """The expected terminals in a user's words. What a name or number means follows from the other ones expected."""
    marks = [word for terminal, word in _MARKS.items() if terminal in expected]
    if "STRING" in expected:
        marks.insert(0, "an argument (a number, a word or text in double quotes)")
    elif "OPEN" in expected:
        marks = ["the name of a block", "`[`", *marks]
    elif "NAME" in expected:
        marks.insert(0, "a window, such as 128 or the name of a policy")
    elif "NUMBER" in expected:
        marks.insert(0, "a repeat count")
    if "$END" in expected:
        marks.append("the end")
    return ", ".join(marks[:-1]) + " or " + marks[-1] if len(marks) > 1 else marks[0]


def _advice(stop: _Stop, text: str, source: PatternSource | None) -> str | None:
    """What the mistake probably was; None where what was expected explains enough."""
    if stop.found == "JUNK" and stop.text == '"':
        return 'this text has no closing `"`, or stands where quoted text is not allowed'
    if stop.text == "(" and "OPEN" in stop.expected:
        return "a group stands in square brackets: [sa | mlstm]"
    if stop.found == "COMMA" and not stop.open:
        whole = " ".join(text.split()).rstrip(" ,")
        return f"put the list in brackets: [{whole if len(whole) < _LONGEST else 'sa, mlstm'}]"
    if stop.found == "STAR" and stop.last == "NUMBER":
        return "a repeat is not repeated: multiply the two counts"
    if stop.found == "NUMBER" and "OPEN" in stop.expected:
        return "a count stands after what it repeats: sa*2"
    if stop.found == "RSQB" and stop.last == "OPEN":
        return "a group holds at least one block"
    innermost = stop.open[-1] if stop.open else None
    if stop.text in _CLOSES and (innermost is None or stop.text + innermost[0] == ")["):
        return f"no `{_CLOSES[stop.text]}` is open here"
    if innermost is not None and (stop.found == "$END" or stop.text + innermost[0] == "]("):
        line, column = (source or PatternSource.inline(text)).locate(text, innermost.start())
        return f"the `{innermost[0]}` at {line.number}:{column} is not closed"
    return None
