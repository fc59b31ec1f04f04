"""Templates, patterns with variables in braces: `[swa:{w}, mlstm]*{n}` has the variables w and n."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from hybridkit.recipe.schema import Scalar

_HOLE = re.compile(r"\{([A-Za-z_]\w*)\}", re.ASCII)
_BARS = re.compile(r'"(?:\\.|[^"\\])*"|[()\[\]|]')  # passes over quoted text
_BRACKETS = re.compile(r"[()\[\],]")


def holes(text: str) -> list[str]:
    """The variables of a template, in order. Raises ValueError for other braces."""
    if re.search(r"[{}]", _HOLE.sub("", text)):
        raise ValueError(f"braces stand around the name of a variable, as in [swa:{{w}}, mlstm]; not so in `{text}`")
    return list(dict.fromkeys(_HOLE.findall(text)))


def fill(text: str, values: Mapping[str, Scalar]) -> str:
    """The template with its variables replaced by their values, as a pattern writes them.

    A value of several branches stands in brackets, unless it is all of the text.
    """
    alone = _HOLE.fullmatch(text)
    return _HOLE.sub(lambda hole: value_text(values[hole[1]]) if alone else _grouped(value_text(values[hole[1]])), text)


def _grouped(text: str) -> str:
    """`a | b` in brackets; other texts as they are."""
    depth = 0
    for mark in _BARS.finditer(text):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(mark[0], 0)
        if mark[0] == "|" and depth == 0:
            return f"[{text}]"
    return text


def value_text(value: Scalar) -> str:
    """A value as a pattern writes it: text without quotes, true, null, 0.5."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def elements(text: str) -> Iterator[str]:
    """The elements of a list `[a, f(b,c), d]`, separated by commas outside inner brackets.

    Raises ValueError for a text that is not a list.
    """
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        raise ValueError(f"write a list in brackets, as in [swa:16, mlstm], not as `{text}`")
    inner, depth, begin = text[1:-1], 0, 0
    for mark in _BRACKETS.finditer(inner):
        depth += {"(": 1, "[": 1, ",": 0}.get(mark[0], -1)
        if mark[0] == "," and depth == 0:
            yield inner[begin : mark.start()].strip()
            begin = mark.end()
    if last := inner[begin:].strip():
        yield last
