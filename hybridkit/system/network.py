"""Whether the Hugging Face Hub can be found from here, before its libraries try for half a minute."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

_OFFLINE = "HF_HUB_OFFLINE"
_HUB = "https://huggingface.co"
NO_ADDRESS = "huggingface.co has no address here (is there a network?), and there is no copy in its cache"


@contextmanager
def hub_if_reachable(*settings: Any) -> Iterator[bool]:
    """Whether the Hub has an address here. Where it has none, its libraries read their caches at once, within.

    `settings`: the modules in which these libraries keep `HF_HUB_OFFLINE`; where it is set already, nothing is asked.
    """
    if any(getattr(module, _OFFLINE, True) for module in settings) or _has_address(os.environ.get("HF_ENDPOINT", _HUB)):
        yield True
        return
    for module in settings:
        setattr(module, _OFFLINE, True)
    try:
        yield False
    finally:
        for module in settings:
            setattr(module, _OFFLINE, False)


def _has_address(url: str) -> bool:
    """Whether the name in a URL can be looked up. A proxy looks it up itself."""
    if getproxies():
        return True
    try:
        return bool(socket.getaddrinfo(urlsplit(url).hostname, None))
    except (OSError, UnicodeError):
        return False
