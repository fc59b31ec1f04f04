"""Plug-ins in tests: the smallest block, and forgetting what was loaded, as if another process began."""

import sys

import pytest

from hybridkit.registry import plugin_package, trust
from hybridkit.registry.registry import REGISTRY

_BLOCK = """\
from hybridkit.block import Block, Layer
class _Pass(Layer):
    def forward(self, x, state=None, *, window=None, document_starts=None): return x, ()
class {name}(Block):
    def build(self, dims): return _Pass()
    def flops(self, dims, tokens, window=None, count="exact"): return 0
"""


def block_file(name: str) -> str:
    """The text of a plug-in with a block of that class, which gives its input back."""
    return _BLOCK.format(name=name)


def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if another process began: no plug-in is named, none is loaded, and none is trusted for this process alone."""
    REGISTRY.clear()
    monkeypatch.setattr(trust, "_process", set())
    monkeypatch.setattr(plugin_package, "_PACKAGES", {})
    for name in [name for name in sys.modules if name.startswith(plugin_package.PREFIX)]:
        monkeypatch.delitem(sys.modules, name)
