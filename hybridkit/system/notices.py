"""Lines from below the verbs to whoever listens: what is being built, how long that takes, and warnings."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

Listener = Callable[[str], object]
_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within, `listener` is told, in place of those around it."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def tell(text: str) -> None:
    """Hand a line to whoever listens."""
    if _listeners:
        _listeners[-1](text)


@cache
def warn_once(text: str) -> None:
    """Hand a line to whoever listens, or else to `warnings`; the same line once a process."""
    if _listeners:
        tell(text)
    else:
        warnings.warn(text, stacklevel=2)


@contextmanager
def building(what: str) -> Iterator[None]:
    """Tell that `what` is being built, and after it how long that took."""
    tell(f"building {what} ...")
    began = time.perf_counter()
    yield
    tell(f"built {what} in {time.perf_counter() - began:.1f} s")
