"""Plug-ins in tests: forgetting them, as if another process began."""

import sys

import pytest

from hybridkit.registry import plugin_package, trust
from hybridkit.registry.registry import REGISTRY


def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if another process began: no plug-in is named, none is loaded, and none is trusted for this process alone."""
    REGISTRY.clear()
    monkeypatch.setattr(trust, "_process", set())
    monkeypatch.setattr(plugin_package, "_PACKAGES", {})
    for name in [name for name in sys.modules if name.startswith(plugin_package.PREFIX)]:
        monkeypatch.delitem(sys.modules, name)
