"""Patterns with holes: `[swa:{w}, mlstm]*{n}` names the variables w and n."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from hybridkit.recipe.schema import Scalar

_HOLE = re.compile(r"\{([A-Za-z_]\w*)\}", re.ASCII)
_BRACKETS = re.compile(r"[()\[\],]")


def holes(text: str) -> list[str]:
    """The variables that a template names, in order. Raises ValueError for braces that are no hole."""
    if re.search(r"[{}]", _HOLE.sub("", text)):
        raise ValueError(f"braces stand around the name of a variable, as in [swa:{{w}}, mlstm]; not so in `{text}`")
    return list(dict.fromkeys(_HOLE.findall(text)))


def fill(text: str, values: Mapping[str, Scalar]) -> str:
    """The template with the values of its variables, written as a pattern writes them."""
    return _HOLE.sub(lambda hole: write(values[hole[1]]), text)


def write(value: Scalar) -> str:
    """A value as it stands in a pattern: text as it is, true, null, 0.5."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def elements(text: str) -> Iterator[str]:
    """What a list `[a, f(b,c), d]` holds: its parts between commas that stand in no inner bracket.

    Raises ValueError for a text that is no list.
    """
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        raise ValueError(f"a list stands in brackets, as in [swa:16, mlstm]; not so `{text}`")
    inner, depth, begin = text[1:-1], 0, 0
    for mark in _BRACKETS.finditer(inner):
        depth += {"(": 1, "[": 1, ",": 0}.get(mark[0], -1)
        if mark[0] == "," and depth == 0:
            yield inner[begin : mark.start()].strip()
            begin = mark.end()
    if last := inner[begin:].strip():
        yield last
