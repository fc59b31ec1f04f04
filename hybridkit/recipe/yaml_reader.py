"""YAML as recipes and search spaces use it: a text becomes plain data, with the place of every key and value.

A safe part of YAML 1.2: mappings, lists, strings, numbers, true, false and null. Anchors, aliases, tags, duplicate keys
and several documents are refused, as are files that are large, deep or not text.
"""

from __future__ import annotations

import math
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from yaml import events as e
from yaml.error import MarkedYAMLError
from yaml.reader import ReaderError

from hybridkit.language.pattern_source import PatternSource, SourceLine
from hybridkit.recipe.yaml_events import MAX_DEPTH, TAB, Events, Keys, Refused
from hybridkit.system.errors import UserError, nearest
from hybridkit.system.folders import advice, kind
from hybridkit.system.terminal import character, shown

KeyPath = tuple[str | int, ...]  # the keys and list places that lead to a value

MAX_YAML_BYTES = 1 << 20
MAX_VALUES = 4096

_INTEGER = re.compile(r"[-+]?[0-9]{1,300}")
_NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_LINE_ENDS = re.compile("[\x85\u2028\u2029]")  # line ends in YAML 1.1, but not for editors and YAML 1.2
_UNSEEN = re.compile(
    "[\x7f-\x9f\xa0\xad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u2064\u2066-\u206f\u3000\ufeff]"
)
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"|\'[^\']*\'|(?:^|(?<=\s))#.*')  # and comments
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_PLAINER = {  # PyYAML's words: ours
    "mapping values are not allowed here": "no mapping may begin here: quote a value that holds `: `, or indent the"
    " line like its neighbours",
    "while parsing a block mapping": "expected a key, indented like those above it",
    "while scanning a simple key": "this line is no `key: value`",
}
_WORDS = {word: value for value, words in {
    None: ("", "~", "null", "Null", "NULL"), True: ("true", "True", "TRUE"), False: ("false", "False", "FALSE"),
}.items() for word in words}  # fmt: skip


class TextPlace(NamedTuple):
    """Where a key or value stands: a file's line and column, both from 1, or an origin without lines (an override)."""

    origin: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return self.origin if self.line is None else f"{self.origin}:{self.line}:{self.column}"


class ReadError(UserError):
    """A text that cannot be read: the place, what is wrong, what would be right."""

    def __init__(self, place: TextPlace, message: str) -> None:
        self.place = place
        super().__init__(f"{place}: {message}")


@dataclass(frozen=True)
class Document:
    """The data in a text. `keys` and `values` hold places by path, `sources` the sources of its patterns."""

    data: Any
    keys: Mapping[KeyPath, TextPlace]
    values: Mapping[KeyPath, TextPlace]
    sources: Mapping[KeyPath, PatternSource]

    def known(self, path: KeyPath) -> KeyPath:
        """The longest beginning of `path` that the text has a value for: pydantic adds the names of its types."""
        return next(path[:n] for n in range(len(path), -1, -1) if _holds(self.data, path[:n]))

    def where(self, path: KeyPath) -> TextPlace:
        """The place of the value at `path`, or of the nearest one around it that was written."""
        return self.values[next(path[:n] for n in range(len(path), -1, -1) if path[:n] in self.values)]


def _holds(data: Any, path: KeyPath) -> bool:
    for key in path:
        if isinstance(data, str):  # a letter of a text is no value in it
            return False
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def read_yaml_file(path: Path, is_pattern: Callable[[Keys], bool]) -> Document:
    """Read a file whose top level is a mapping. Raises ReadError; a path that is no readable text file included."""
    document = read_yaml_text(_text_of(path), str(path), is_pattern)
    if document.data is None:
        return Document({}, {}, document.values, {})
    if not isinstance(document.data, dict):
        if isinstance(document.data, str) and (unseen := _UNSEEN.search(document.data)):
            said = f"{character(unseen[0])} is invisible or looks like a space: write a plain space after a key's colon"
            raise ReadError(document.where(()), said)
        raise ReadError(document.where(()), "the top level should hold lines of `key: value`")
    return document


def read_yaml_text(text: str, origin: str, is_pattern: Callable[[Keys], bool] = lambda keys: False) -> Document:
    """Read one YAML value out of a text; `is_pattern` tells the keys whose values are patterns. Raises ReadError."""
    document = _read(text, origin, is_pattern)
    return replace(document, data=deepcopy(document.data))


@lru_cache(64)  # a verb reads the same recipe several times, a search its base for every candidate
def _read(text: str, origin: str, is_pattern: Callable[[Keys], bool]) -> Document:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    starts = [0, *(found.end() for found in re.finditer("\n", text))]

    def place(index: int) -> TextPlace:
        line = bisect_right(starts, index)
        return TextPlace(origin, line, index - starts[line - 1] + 1)

    builder = None
    try:
        if unreadable := _LINE_ENDS.search(text):
            raise Refused(unreadable.start(), f"{character(unreadable.group())} has no place in text")
        builder = _Builder(text, is_pattern, place)
        return builder.document()
    except Refused as error:
        index, said = _slip(text, error.index, builder) or (error.index, str(error))
        raise ReadError(place(index), said) from None
    except MarkedYAMLError as error:
        at_the_end = error.problem_mark is None or error.problem_mark.index >= len(text)
        mark = (at_the_end and error.context_mark) or error.problem_mark  # where an unclosed bracket opens
        index, said = _slip(text, mark.index if mark else 0, builder) or (mark.index if mark else 0, _plainly(error))
        raise ReadError(place(index), said) from None
    except (ValueError, OverflowError):  # PyYAML leaves chr()'s own errors to the caller
        raise ReadError(place(0), "a \\U escape beyond the last character there is") from None
    except ReaderError as error:
        raise ReadError(place(error.position), f"{character(chr(error.character))} has no place in text") from None


def _slip(text: str, index: int, builder: _Builder | None) -> tuple[int, str] | None:
    """A likelier cause of YAML's error at `index` than YAML names: an unseen character, a misspelt key."""
    end = text.find("\n", index)
    before = text.rfind("\n", 0, index)
    begin = text.rfind("\n", 0, before) + 1 if before >= 0 else 0  # the line before, too
    told = _QUOTED.sub(lambda found: "x" * len(found[0]), text[begin : end if end >= 0 else None])
    if unseen := _UNSEEN.search(told):
        return (
            begin + unseen.start(),
            f"{character(unseen[0])} is invisible or looks like a space: write a plain space, or none",
        )
    if builder and (found := builder.events.misspelt()):
        return found[0], f"unknown key {shown(found[1])}; did you mean `pattern`?"
    return None


def scalar(text: str) -> int | float | str | bool | None:
    """What an unquoted word means in YAML 1.2: 010 is ten, 1:30 and yes are text, 3e-4 and .5 are numbers."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text


def missing(path: Path, known: Iterable[str] = ()) -> ReadError:
    """The error for a path that does not exist, naming the nearest file or run beside it, or known name."""
    found = [*path.parent.glob("*.y*ml"), *path.parent.glob("*/recipe.yaml")] if os.path.isdir(path.parent) else []
    beside = [file.parent if file.name == "recipe.yaml" else file for file in found]
    by_name = {**{name: name for name in known}, **{place.name: str(place) for place in beside}}
    near = nearest(path.name, by_name) or nearest(str(path), by_name)  # by name first: the folder is the same for all
    pattern = "; a pattern goes with a recipe: quickstart 'pattern=[sa]*4'" if "[" in str(path) else ""
    hint = f"; did you mean {by_name[near]}?" if near else pattern
    return ReadError(TextPlace(str(path)), f"no such file{hint}")


def _text_of(path: Path) -> str:
    """The text of a file. Raises ReadError where it cannot be read, is too large or is not text."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_YAML_BYTES + 1)
    except FileNotFoundError:
        raise missing(path) from None
    except IsADirectoryError:
        said = advice(path) or "name a YAML file"
        raise ReadError(TextPlace(str(path)), f"a directory, not a file: {kind(path)}; {said}") from None
    except OSError as error:
        raise ReadError(TextPlace(str(path)), f"cannot be read: {error.strerror}") from None
    if len(data) > MAX_YAML_BYTES:
        raise ReadError(TextPlace(str(path)), "larger than 1 MiB, the most that a recipe may have")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ReadError(TextPlace(str(path)), f"binary, not UTF-8 text (byte {error.start})") from None
    if "\0" in text:
        raise ReadError(TextPlace(str(path)), f"binary, not text (NUL at character {text.index(chr(0))})")
    return text


class _Builder:
    """Builds plain data out of the events of one text."""

    def __init__(self, text: str, is_pattern: Callable[[Keys], bool], place: Callable[[int], TextPlace]) -> None:
        self.events = Events(text, is_pattern)
        self.text, self.place = text, place
        self.keys: dict[KeyPath, TextPlace] = {}
        self.values: dict[KeyPath, TextPlace] = {}
        self.sources: dict[KeyPath, PatternSource] = {}

    def document(self) -> Document:
        self.events.get_event()  # the stream's start
        data = None
        self.values[()] = self.place(0)
        if isinstance(self.events.get_event(), e.DocumentStartEvent):
            data = self.value(())
            self.events.get_event()  # the document's end
            if not isinstance(following := self.events.get_event(), e.StreamEndEvent):
                raise Refused(following.start_mark.index, "a second document begins here; a file holds one")
        return Document(data, self.keys, self.values, self.sources)

    def value(self, path: KeyPath) -> Any:
        event = self.events.get_event()
        index = event.start_mark.index
        if len(path) > MAX_DEPTH:
            raise Refused(index, f"nested deeper than {MAX_DEPTH} levels")
        if len(self.values) > MAX_VALUES:
            raise Refused(index, f"more than {MAX_VALUES} values, the most that a recipe may have")
        self.values[path] = self.place(index)
        if isinstance(event, e.MappingStartEvent):
            return self.mapping(path)
        if isinstance(event, e.SequenceStartEvent):
            return self.sequence(path)
        text = _text(event, index)
        if index in self.events.stretches:
            self.sources[path] = self.source(index, text)
        return scalar(text) if event.implicit[0] else text

    def mapping(self, path: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        while not self.events.check_event(e.MappingEndEvent):
            event = self.events.get_event()
            index = event.start_mark.index
            if not isinstance(event, e.ScalarEvent):
                raise Refused(index, "a key is a word, not a list or mapping")
            name = _text(event, index)
            if event.style is None and (unseen := _UNSEEN.search(name)):
                raise Refused(index, f"this key holds {character(unseen[0])}, which is invisible or looks like a space")
            if name in data:
                raise Refused(index, f"`{name}` is given twice; first at {self.keys[(*path, name)]}")
            self.keys[(*path, name)] = self.place(index)
            data[name] = self.value((*path, name))
        self.events.get_event()
        return data

    def sequence(self, path: KeyPath) -> list[Any]:
        data: list[Any] = []
        while not self.events.check_event(e.SequenceEndEvent):
            data.append(self.value((*path, len(data))))
        self.events.get_event()
        return data

    def source(self, index: int, text: str) -> PatternSource:
        """Where the lines of the pattern `text`, whose event begins at `index`, stand."""
        origin, number, _ = self.place(index)
        if not (stretches := self.events.stretches[index]):
            return PatternSource(origin, tuple(SourceLine(number or 1, 1, line) for line in text.split("\n")))
        return PatternSource(origin, tuple(self.line(begin) for begin, _ in stretches))

    def line(self, begin: int) -> SourceLine:
        """The line of the file on which `begin` stands, as that of a pattern which begins there."""
        _, number, column = self.place(begin)
        end = self.text.find("\n", begin)
        return SourceLine(number or 1, column or 1, self.text[begin - (column or 1) + 1 : end if end >= 0 else None])


def _text(event: e.ScalarEvent, index: int) -> str:
    """The text of a scalar, without characters that only an escape can write and that no file name may hold."""
    if _NO_TEXT.search(event.value):
        raise Refused(index, "this escape is no character")
    return event.value


def _plainly(error: MarkedYAMLError) -> str:
    """PyYAML's complaint in one line."""
    if error.problem and "'\\t'" in error.problem:
        return TAB
    if plainer := [_PLAINER[said] for said in (error.problem, error.context) if said in _PLAINER]:
        return plainer[0]
    return ", ".join(part for part in (error.context, error.problem) if part)
