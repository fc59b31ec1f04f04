"""The parser of the pattern language: from a text to the flat list of its calls, one a layer (docs/pattern.md)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

from lark import Lark, Token, Transformer, UnexpectedInput, v_args

from hybridkit.language.pattern_source import PatternSource, Span, error_at
from hybridkit.language.syntax_errors import BRACKETS, syntax_error
from hybridkit.language.tables import parser

if TYPE_CHECKING:  # the vocabulary imports torch, which a syntax error must not wait for
    from hybridkit.block import Argument, Value

MAX_ENTRIES = 4096
MAX_LEVELS = 64
MAX_PATTERN_BYTES = 64 * 1024
_MAX_DIGITS = 32  # of a written number; more are a mistake, and Python refuses to read thousands
_WORDS: dict[str, Value] = {"null": None, "true": True, "false": False}


class Spans(NamedTuple):
    """Where the parts of a call stand in the pattern's text."""

    name: Span
    arguments: tuple[Span, ...]


@dataclass(frozen=True)
class Call:
    """One layer as written: `swa(kv_heads=4):stoch(128,2048)`. Calls compare equal wherever they stand.

    In `a | b | c`, `beside` of the first branch's call holds those of the others.
    """

    name: str
    arguments: tuple[Argument, ...] = ()
    window: Call | None = None
    span: Spans = field(default=Spans((0, 0), ()), compare=False, repr=False)
    beside: tuple[Call, ...] = ()

    @property
    def branches(self) -> tuple[Call, ...]:
        """The calls of an entry, one a branch."""
        return (replace(self, beside=()), *self.beside) if self.beside else (self,)


def parse_pattern(text: str, source: PatternSource | None = None) -> tuple[Call, ...]:
    """The flat list of a pattern's calls, one an entry, with groups and repeats expanded: 1 to 4096.

    `source` says where `text` stands, for messages. Raises PatternError for anything that is not a pattern, for more
    than 4096 entries (counted before they are made, each branch as one), 64 levels of brackets or 64 KiB.
    """
    return tuple(_flat(pattern_tree(text, source)))


def pattern_tree(text: str, source: PatternSource | None = None) -> Group | Call:
    """A pattern as written, its groups and repeats kept. Raises what `parse_pattern` raises."""
    if len(text.encode(errors="surrogatepass")) > MAX_PATTERN_BYTES:
        first = PatternSource.inline(text[:MAX_PATTERN_BYTES].partition("\n")[0])  # the error shows one line
        raise error_at(source or first, text, (0, 0), "a pattern holds at most 64 KiB; write repeats as [sa, mlstm]*12")
    _check_levels(text, source)
    try:
        return _tree(text)
    except UnexpectedInput as error:
        raise syntax_error(error, text, source) from None
    except _Refused as error:
        raise error_at(source, text, error.span, str(error)) from None


@lru_cache(256)
def _tree(text: str) -> Group | Call:
    """A recipe's pattern is read when the recipe is checked, and again when it is compiled."""
    return _parser().parse(text)  # type: ignore[return-value]  # what _Build.start returns


_LIST = re.compile(r"\s*\[([^][\"]*)\]\s*(?:\*\s*([0-9]{1,4})\s*)?")  # a flat list, and how often it repeats
_COMMA = re.compile(r",(?![^()]*\))")  # outside of parentheses, which do not nest


def list_elements(text: str) -> tuple[list[str], int] | None:
    """The elements of `[a, b, c]*n`, a list without lists and quoted text within, and n; None for other texts.

    If each element by itself is a pattern, the whole is one, and reads as they do.
    """
    found = _LIST.fullmatch(text) if len(text) <= MAX_PATTERN_BYTES // 4 else None
    return ([part.strip() for part in _COMMA.split(found[1])], int(found[2] or 1)) if found else None


def _check_levels(text: str, source: PatternSource | None) -> None:
    level = 0
    for mark in BRACKETS.finditer(text):
        level += {"[": 1, "]": -1}.get(mark[0], 0)
        if level > MAX_LEVELS:
            raise error_at(source, text, mark.span(), f"brackets nest at most {MAX_LEVELS} levels deep")


class _Refused(Exception):
    def __init__(self, span: Span, message: str) -> None:
        super().__init__(message)
        self.span = span


class Group(NamedTuple):
    """A repeated sequence, not yet expanded; `entries` is how many calls it expands to."""

    parts: tuple[Group | Call, ...]
    times: int
    entries: int


def _flat(part: Group | Call) -> list[Call]:
    return [part] if isinstance(part, Call) else [call for inner in part.parts for call in _flat(inner)] * part.times


_Part = Group | Call

_ONE_CALL = "a branch is one call of a block; a repeat of branches stands behind brackets: [sa | mlstm]*2"


class _Argument(NamedTuple):
    said: Argument
    span: Span


@v_args(inline=True)
class _Build(Transformer[Token, object]):
    """Builds calls and groups while the parser reads, a method for each rule: no syntax tree, no recursion."""

    def start(self, part: _Part) -> _Part:
        return part

    def call(self, name: Token, *rest: _Argument | Call) -> Call:
        window = rest[-1] if rest and isinstance(rest[-1], Call) else None
        return _call(name, [part for part in rest if isinstance(part, _Argument)], window)

    def policy(self, name: Token, *arguments: _Argument) -> Call:
        return _call(name, arguments, None)

    def fixed(self, window: Token) -> Call:
        return Call("fixed", ((None, _value(window)),), span=Spans(_span(window), (_span(window),)))

    def group(self, bracket: Token, *parts: _Part) -> Group:
        return Group(parts, 1, _counted(sum(map(_entries, parts)), bracket))

    def side_by_side(self, *parts: _Part) -> Call:
        for part in parts:
            if isinstance(part, Group):
                raise _Refused(_first(part).span.name, _ONE_CALL)
        first, *others = parts
        assert isinstance(first, Call)
        _counted(len(parts), _first(parts[-1]).span.name)
        return replace(first, beside=tuple(others))  # type: ignore[arg-type]  # groups are refused above

    def repeat(self, part: _Part, times: Token) -> Group:
        count = _value(times)
        if not isinstance(count, int) or count < 1:
            raise _Refused(_span(times), "a repeat count is a whole number of at least 1")
        return Group((part,), count, _counted(_entries(part) * count, times))

    def positional(self, value: Token) -> _Argument:
        return _Argument((None, _value(value)), _span(value))

    def keyed(self, key: Token, value: Token) -> _Argument:
        name = str(key) if key.type == "NAME" else _number(key)
        return _Argument((name, _value(value)), (_span(key)[0], _span(value)[1]))


def _call(name: Token, arguments: Sequence[_Argument], window: Call | None) -> Call:
    spans = Spans(_span(name), tuple(argument.span for argument in arguments))
    return Call(str(name), tuple(argument.said for argument in arguments), window, spans)


def _entries(part: _Part) -> int:
    return part.entries if isinstance(part, Group) else 1 + len(part.beside)


def _first(part: _Part) -> Call:
    while isinstance(part, Group):
        part = part.parts[0]
    return part


def _counted(entries: int, place: Token | Span) -> int:
    if entries > MAX_ENTRIES:
        span = _span(place) if isinstance(place, Token) else place
        raise _Refused(span, f"a pattern has at most {MAX_ENTRIES} entries; this makes {entries}")
    return entries


def _span(token: Token) -> Span:
    assert token.start_pos is not None
    return token.start_pos, token.start_pos + len(token)


def _value(token: Token) -> Value:
    if token.type == "NUMBER":
        return _number(token)
    return _text(token) if token.type == "STRING" else _WORDS.get(token, str(token))


def _number(token: Token) -> int | float:
    if token.lstrip("-").isdecimal() and len(token) <= _MAX_DIGITS:
        return int(token)
    number = float(token)
    if token.lstrip("-").isdecimal() or math.isinf(number):
        raise _Refused(_span(token), "this number is too large")
    return number


def _text(token: Token) -> str:
    try:
        text = str(json.loads(token))
        text.encode()
    except ValueError:
        raise _Refused(_span(token), 'quoted text is written as in JSON, with escapes such as \\n and \\"') from None
    return text


@cache
def _parser() -> Lark:
    return parser(_Build())
