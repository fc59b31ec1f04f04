"""What is built while nothing else happens: kernels and graphs, told with the time that they take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


@contextmanager
def building(what: str) -> Iterator[None]:
    """Tell that `what` is being built, and after it how long that took."""
    tell(f"building {what} ...")
    began = time.perf_counter()
    yield
    tell(f"built {what} in {time.perf_counter() - began:.1f} s")
