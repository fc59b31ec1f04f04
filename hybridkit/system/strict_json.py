"""JSON as its standard has it (RFC 8259): no NaN or Infinity, neither read nor written, and no key twice."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hybridkit.system.terminal import shown


def parse_json(raw: bytes) -> Any:
    """What JSON in UTF-8 says.

    Raises ValueError, also for a key that stands twice, values nested too deep, numbers beyond a float, and half
    surrogate pairs.
    """
    try:
        value = json.loads(raw.decode(), object_pairs_hook=unique, parse_constant=_refuse, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if b"\\u" in raw:  # such an escape can stand for half a surrogate pair, which no file can hold
        json.dumps(value, ensure_ascii=False).encode()
    return value


def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values. Raises ValueError where a key stands twice: which value counts is unsaid."""
    made = dict(pairs)
    if len(made) < len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {shown(twice)} stands twice")
    return made


def format_json(value: Any, indent: int | None = None) -> str:
    """JSON, in one line unless `indent` is given; a number that is not finite becomes null."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_without_nan(value), indent=indent, allow_nan=False)


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is beyond what a float holds")
    return number


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
