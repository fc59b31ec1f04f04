"""YAML events in which the values of some keys are patterns: text that stands unquoted, which no plain YAML can read.

The text begins where the key's value begins. In block style it ends before the next line indented no deeper than the
key, in a flow mapping at the comma or bracket that closes it. `#` after a space is a comment; blank lines are
skipped. The text under a `|` or `>` reads the same. Everything else is left to PyYAML's own scanner, which therefore
knows what is a quoted string, a comment or a block scalar, and what only looks like a key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner
from yaml.tokens import ScalarToken, Token

from hybridkit.language.pattern_source import Span
from hybridkit.system.errors import nearest

Keys = tuple[str, ...]  # the names of the keys that lead to a value; places in lists leave no name

MAX_DEPTH = 64
TAB = "a tab, which is not read here: write spaces"

_NOTHING = re.compile(r"(?: +|#[^\n\0]*|\n)*")
_HEADER = re.compile(r"[|>][-+1-9]{0,2} *(?:#[^\n]*)?\n")
_COMMENT = re.compile(r"(?:^|(?<=\s))#")
_FLOW_MARKS = re.compile(r"(?:^|(?<=\s))#[^\n]*|[()\[\]{},]")
_FURTHER = re.compile(r"(?:[^\n]*\n)(?:[ ]*(?:#[^\n]*)?\n)* *(?=[^\s\0])")  # to the next line with text
_KEY = re.compile(r"[^\s\[\](){},*|&!%@`#][^\n]*:(?:[\s\0]|$)|-(?:[\s\0]|$)|\? |---|\.\.\.|[\]}]")
_LEFT_TO_YAML = "\0\t{&*!,]}"  # a value that begins so is a mapping, a mistake that YAML names, or nothing


class Refused(Exception):
    """What is wrong at an offset of the text."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


class Events(Reader, Scanner, Parser):
    """The events of a YAML text (`check_event`, `get_event`); raises YAMLError and Refused.

    Aliases can make a small text explode, and tags name code: neither is read, so no event refers to another.

    `stretches` has an element for each pattern, by the offset of its event's start mark: where its lines stand. A
    quoted pattern with escapes has an empty list there, for its lines are not what the file shows.
    """

    def __init__(self, text: str, is_pattern: Callable[[Keys], bool]) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        self.stretches: dict[int, list[Span]] = {}
        self._is_pattern = is_pattern
        self._open: list[tuple[int, int, str, int]] = []  # keys around this place: flow level, column, name, offset
        self._pattern_is_next = False

    def forward(self, length: int = 1) -> None:
        """Move on in one stride, where PyYAML steps from character to character; lines end with a newline alone."""
        end = self.index + length
        newlines = self.buffer.count("\n", self.index, end)
        self.line += newlines
        self.column = end - self.buffer.rfind("\n", 0, end) - 1 if newlines else self.column + length
        self.index = self.pointer = end

    def scan_to_next_token(self) -> None:
        """Skip spaces, comments and line ends; in block style a key may follow a line's end."""
        end = _NOTHING.match(self.buffer, self.index).end()  # type: ignore[union-attr]  # it matches the empty text, too
        if not self.flow_level and "\n" in self.buffer[self.index : end]:
            self.allow_simple_key = True
        self.forward(end - self.index)

    def fetch_flow_collection_start(self, TokenClass: type[Token]) -> None:
        super().fetch_flow_collection_start(TokenClass)
        if self.flow_level > MAX_DEPTH:
            raise Refused(self.index - 1, f"nested deeper than {MAX_DEPTH} levels")

    def fetch_alias(self) -> None:
        raise Refused(self.index, "an alias, which is not read here; quote a text that begins with `*`")

    def fetch_anchor(self) -> None:
        raise Refused(self.index, "an anchor, which is not read here; quote a text that begins with `&`")

    def fetch_tag(self) -> None:
        raise Refused(self.index, "a tag, which is not read here; quote a text that begins with `!`")

    def fetch_value(self) -> None:
        """At the colon: note the key before it, and whether its value is a pattern."""
        key = self.possible_simple_keys.get(self.flow_level)
        name = self.tokens[-1] if self.tokens else None
        super().fetch_value()
        if key is None or not isinstance(name, ScalarToken):
            return
        place = (self.flow_level, 0 if self.flow_level else key.column)
        while self._open and self._open[-1][:2] >= place:
            self._open.pop()
        self._open.append((*place, name.value, key.index))
        self._pattern_is_next = self._is_pattern(self._keys())

    def misspelt(self) -> tuple[int, str] | None:
        """The offset and name of the key around this place, if it looks like `pattern` misspelt."""
        keys = self._keys()
        if not keys or self._is_pattern(keys) or not self._is_pattern((*keys[:-1], "pattern")):
            return None
        return (self._open[-1][3], keys[-1]) if nearest(keys[-1], ["pattern"]) else None

    def _keys(self) -> Keys:
        return tuple(name for _, _, name, _ in self._open)

    def fetch_more_tokens(self) -> None:
        if not self._pattern_is_next:
            return super().fetch_more_tokens()
        self._pattern_is_next = False
        self.scan_to_next_token()
        if self.peek() in "\"'":
            super().fetch_more_tokens()
            self._unfold_quoted(self.tokens[-1])
        elif stretches := self._unquoted():
            self._fetch_text(stretches)
        else:
            super().fetch_more_tokens()

    def scan_plain(self) -> ScalarToken:
        token = super().scan_plain()
        if self.flow_level and token.value.count("(") > token.value.count(")"):
            raise Refused(
                token.start_mark.index,
                f"the comma splits `{token.value[:40]}`: quote the whole call, or give it a line of its own",
            )
        return token

    def _unquoted(self) -> list[Span]:
        """The lines of the pattern that begins here; none if the value is not a pattern's text."""
        if self.peek() in _LEFT_TO_YAML:
            return []
        if self.flow_level:
            return list(_lines(self.buffer, self.index, _flow_end(self.buffer, self.index)))
        key_column = self._open[-1][1]
        if self.column <= key_column or (self.peek() == "-" and self.check_block_entry()):
            return []
        header = _HEADER.match(self.buffer, self.index)
        begin = header.end() if header else self.index
        stretches = list(_deeper(self.buffer, begin, key_column))
        if stretches and not header:
            _check_next(self.buffer, stretches[-1][1])
        return stretches

    def _fetch_text(self, stretches: list[Span]) -> None:
        """Hand YAML the lines as one quoted scalar."""
        start = self.get_mark()
        self.allow_simple_key = False
        self.forward(stretches[-1][1] - self.index)
        text = "\n".join(self.buffer[begin:end] for begin, end in stretches)
        self.stretches[start.index] = stretches
        self.tokens.append(ScalarToken(text, False, start, self.get_mark(), '"'))

    def _unfold_quoted(self, token: ScalarToken) -> None:
        """Keep the lines of a quoted pattern apart, so that what is wrong in them can be pointed at."""
        begin, end = token.start_mark.index + 1, token.end_mark.index - 1
        inner = self.buffer[begin:end]
        if "\\" in inner or "''" in inner:
            self.stretches[token.start_mark.index] = []
            return
        stretches = [(begin, end)]
        if "\n" in inner:
            lines = re.finditer(r"\S(?:[^\n]*\S)?", inner)
            stretches = [(begin + line.start(), begin + line.end()) for line in lines] or [(begin, begin)]
        token.value = "\n".join(self.buffer[begin:end] for begin, end in stretches)
        self.stretches[token.start_mark.index] = stretches


def _lines(text: str, begin: int, end: int) -> Iterator[Span]:
    """The lines of text[begin:end] without comments and surrounding space; empty ones are left out.

    Raises Refused for a tab that indents.
    """
    while begin < end:
        stop = text.find("\n", begin, end)
        stop = end if stop < 0 else stop
        line = text[begin:stop]
        comment = _COMMENT.search(line)
        said = (line[: comment.start()] if comment else line).rstrip()
        first = begin + len(said) - len(said.lstrip(" "))
        if said and text[first] == "\t":
            raise Refused(first, TAB)
        if said:
            yield first, begin + len(said)
        begin = stop + 1


def _deeper(text: str, begin: int, column: int) -> Iterator[Span]:
    """The lines from `begin` up to the first that is indented no deeper than `column`."""
    for first, last in _lines(text, begin, len(text) - 1):
        if first - (text.rfind("\n", 0, first) + 1) <= column:
            return
        yield first, last


def _check_next(text: str, end: int) -> None:
    """Raises Refused where what follows the last line of a pattern is neither deeper nor a key."""
    further = _FURTHER.match(text, end)
    if further and not _KEY.match(text, further.end()):
        raise Refused(
            further.end(), "this line is no `key: value`; indent it deeper if the pattern above goes on in it"
        )


def _flow_end(text: str, begin: int) -> int:
    """Where a pattern inside a flow mapping ends: at a comma or a closing bracket that is not its own."""
    depth = 0
    for found in _FLOW_MARKS.finditer(text, begin):
        mark = text[found.start()]
        if depth == 0 and mark in ",)]}":
            return found.start()
        depth += (mark in "([{") - (mark in ")]}")
    raise Refused(begin, "this pattern stands in braces that never close")
