"""From a call to the block and the window policy that it names; errors point into the pattern's text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from hybridkit.language.parser import MAX_ENTRIES, list_elements, parse_pattern
from hybridkit.language.pattern_source import PatternError, PatternSource, Span, error_at
from hybridkit.registry.kinds import BLOCK, WINDOW, Kind
from hybridkit.system.errors import nearest
from hybridkit.system.pydantic_errors import wrong
from hybridkit.system.spec import ALL, MAX_WHOLE
from hybridkit.system.terminal import shown

if TYPE_CHECKING:  # the vocabulary imports torch, which a wrong name need not wait for
    from hybridkit.block import Block, Entry, Spec, Window
    from hybridkit.language.parser import Call
    from hybridkit.registry.registry import Registry

_At = Callable[..., PatternError]  # (span, message, did_you_mean=None): the error to raise
_Problem = tuple[str, str, str | None]  # (pydantic's kind of error or "", what is wrong, the nearest known name)

_ALTERNATIVE = ("literal_error", "bool_type")  # of a union's members, whose names follow the field's
_ORDER = {"extra_forbidden": 0, "missing": 2}  # a misspelt argument also leaves the right one missing
_ELEMENTS = 1 << 14  # texts of elements that are kept
_S = TypeVar("_S", bound="Spec")


def resolve(call: Call, registry: Registry, text: str, source: PatternSource | None = None) -> Entry:
    """The blocks and window policies that a call of the pattern `text` asks for; equal calls give the same object.

    Raises PatternError, with a caret in `source`, for a name or argument that is unknown.
    """
    said = repr(call)
    if said not in registry.entries:
        registry.entries[said] = _resolve(call, registry, text, source)
    return registry.entries[said]


def resolve_pattern(text: str, registry: Registry, source: PatternSource | None = None) -> tuple[Entry, ...]:
    """The entries of a pattern, one a call. Raises PatternError for what is no pattern, and what `resolve` raises.

    An element of a list is parsed when it is first met: a search asks for thousands of lists of the same few elements.
    """
    elements, times = list_elements(text) or ([], 0)
    parts = [registry.elements.get(element) for element in elements]
    if times and None not in parts:
        found = [entry for part in parts for entry in part or ()] * times
        if sum(len(entry.branches) for entry in found) <= MAX_ENTRIES:
            return tuple(found)
    entries = tuple(resolve(call, registry, text, source) for call in parse_pattern(text, source))
    for element in elements if len(registry.elements) < _ELEMENTS else ():
        if element:  # what follows a last comma is none
            calls = parse_pattern(element)
            registry.elements[element] = tuple(resolve(call, registry, element) for call in calls)
    return entries


def _resolve(call: Call, registry: Registry, text: str, source: PatternSource | None) -> Entry:
    from hybridkit.block import Entry

    at, calls = partial(error_at, source, text), call.branches
    entry = Entry(tuple(_block(branch, registry, at) for branch in calls))
    for branch, block in zip(calls, entry.branches, strict=True) if len(calls) > 1 else ():
        if not block.is_mixer:
            raise at(
                branch.span.name, f"a branch has to mix over time, and {branch.name} does not: [a | b, {branch.name}]"
            )
        if block.norm != entry.norm:
            raise at(branch.span.name, "branches read one normed input: give all the same norm=, or set model.norm")
    return entry


def _block(call: Call, registry: Registry, at: _At) -> Block:
    _check_name(call, BLOCK, registry, at)
    cls = registry.block(call.name)
    for (key, _), span in zip(call.arguments, call.span.arguments, strict=True):
        if key == "window" and cls.has_window:
            raise at(span, f"{call.name} has no argument `window`; it stands after the colon: {call.name}:128")
    window = _window(call, cls, registry, at)
    return read_call(call, cls, at, **({"window": window} if window else {}))


def check_names(calls: Iterable[Call], registry: Registry, text: str, source: PatternSource | None = None) -> None:
    """Whether all names of a pattern are known; imports no block. Raises PatternError where one is not."""
    branches = [branch for call in calls for branch in call.branches]
    for call in {(call.name, call.window and call.window.name): call for call in reversed(branches)}.values():
        _check_names(call, registry, text, source)


def _check_names(call: Call, registry: Registry, text: str, source: PatternSource | None) -> None:
    at = partial(error_at, source, text)
    _check_name(call, BLOCK, registry, at)
    if call.window is not None:
        _check_name(call.window, WINDOW, registry, at)


def _check_name(call: Call, kind: Kind, registry: Registry, at: _At) -> None:
    known = registry.names(kind)
    if call.name in known:
        return
    if kind == BLOCK and call.name in registry.names(WINDOW):
        raise at(call.span.name, f"`{call.name}` is a window policy: it stands after a block's colon, as in swa:128")
    if kind == WINDOW and call.name in registry.names(BLOCK):
        raise at(call.span.name, f"`{call.name}` is a block, not a window policy; policies are {', '.join(known)}")
    if kind == WINDOW and call.name == "all":
        raise at(call.span.name, "`all` is a window of a policy: sa:fixed(all), or sa alone, which sees all positions")
    near = nearest(call.name, known)
    what = "block" if kind == BLOCK else "window policy"
    others = "" if near else f"; known: {', '.join(known)}, and what --plugin FILE.py names"
    raise at(call.span.name, f"unknown {what} {shown(call.name)}{others}", near)


def _window(call: Call, cls: type[Block], registry: Registry, at: _At) -> Window | None:
    if call.window is None:
        if cls.has_window and cls.model_fields["window"].is_required():
            raise at(call.span.name, f"{call.name} needs a window: {call.name}:128")
        return None
    if not cls.has_window:
        raise at(call.window.span.name, f"{call.name} has no window")
    _check_name(call.window, WINDOW, registry, at)
    policy = read_call(call.window, registry.window(call.window.name), at)
    if policy.largest == ALL and not cls.sees_all:
        raise at(call.window.span.name, f"`all` is no window of {call.name}: give a number; sa may see all")
    return policy


def read_call(call: Call, cls: type[_S], at: _At, **given: Any) -> _S:
    """An object of `cls` with a call's arguments. Raises the error that `at` makes for the place of the mistake."""
    for (_, value), span in zip(call.arguments, call.span.arguments, strict=True):
        if isinstance(value, int) and abs(value) > MAX_WHOLE:
            raise at(span, f"{shown(str(value))} should be at most {MAX_WHOLE}")
    try:
        return cls.read(call.arguments, **given)
    except ValueError as error:
        kind, message, near = problem(error, cls)
    place = call.span.name if kind == "missing" else _culprit(call, cls, message, given)
    raise at(place, message.replace(str(ALL), "all"), near)


def _culprit(call: Call, cls: type[Spec], message: str, given: dict[str, Any]) -> Span:
    """The argument at fault: the first one with which the arguments up to it give the same error."""
    for count, span in enumerate(call.span.arguments, start=1):
        try:
            cls.read(call.arguments[:count], **given)
        except ValueError as error:
            if problem(error, cls)[1] == message:
                return span
    return call.span.name


def problem(error: ValueError, cls: type[Spec]) -> _Problem:
    """An error of `Spec.read` in terms of the pattern; of several, the one that explains the others."""
    if not isinstance(error, ValidationError):
        return "", str(error), None
    detail = min(error.errors(), key=lambda one: _ORDER.get(one["type"], 1))
    kind, place = detail["type"], detail["loc"]
    field = str(place[0]) if len(place) == 1 or kind in _ALTERNATIVE else None
    if kind == "extra_forbidden" and field:
        known = _arguments_of(cls)
        taken = ", ".join(known) or "no arguments"
        return kind, f"{cls.name()} has no argument {shown(field)}; it takes {taken}", nearest(field, known)
    if kind == "missing":
        return kind, f"{cls.name()} needs `{field}`", None
    if kind == "value_error":
        return kind, str(detail["ctx"]["error"]), None
    wanted = [_wanted(one) for one in error.errors() if one["loc"][:1] == place[:1]]  # more than one of a union
    first, *others = dict.fromkeys(wanted)
    said = " or ".join([first, *(other.removeprefix("should be ") for other in others)])
    words = [word for one in error.errors() for word in re.findall(r"'(\w+)'", one.get("ctx", {}).get("expected", ""))]
    near = nearest(detail["input"], words) if isinstance(detail["input"], str) else None
    return kind, f"{f'`{field}`' if field else 'this'} {said}, not {_said(detail['input'])}", near


def _wanted(error: ErrorDetails) -> str:
    """What a value should be; of a list of words all, else the part before a comma, which explains the rest."""
    said = wrong(error)
    return said if error["type"] == "literal_error" else said.partition(",")[0]


def _arguments_of(cls: type[Spec]) -> list[str]:
    """The arguments that a call may give. A block's window is not among them: it stands after the colon."""
    order = dict.fromkeys([*cls.positional(), *cls.model_fields])
    return [name for name in order if not (name == "window" and getattr(cls, "has_window", False))]


def _said(value: Any) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool | str) else str(value)
