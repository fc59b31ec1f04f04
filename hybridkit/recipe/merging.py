"""One recipe over another: an extending file over the one that it extends, an override over a file.

A mapping is merged into the other, any other value replaces. A mapping that names another block or optimizer replaces,
too: the arguments of the one before are not its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hybridkit.recipe.yaml_reader import Document, KeyPath

_NAMES: dict[KeyPath, str] = {
    ("model", "ffn"): "block",
    ("train", "optimizer"): "name",
}  # mappings, and their key that names what they are


def merged(base: Document, over: Document) -> Document:
    """Both documents as one; where they differ, `over` decides."""
    gone = set(_replaced(base.data, over.data, ()))

    def kept(path: KeyPath) -> bool:
        return not any(path[:n] in gone for n in range(len(path) + 1))

    return Document(
        _deep(base.data, over.data, ()),
        {path: place for path, place in base.keys.items() if kept(path)} | dict(over.keys),
        {path: place for path, place in base.values.items() if kept(path)} | dict(over.values),
        {path: source for path, source in base.sources.items() if kept(path)} | dict(over.sources),
    )


def _deep(base: Any, over: Any, path: KeyPath) -> Any:
    if _replaces(base, over, path):
        return over
    return {**base, **{key: _deep(base.get(key), value, (*path, key)) for key, value in over.items()}}


def _replaced(base: Any, over: Any, path: KeyPath) -> Iterator[KeyPath]:
    """The paths at which `over` replaces what `base` says."""
    if _replaces(base, over, path):
        yield path
        return
    for key in base.keys() & over.keys():
        yield from _replaced(base[key], over[key], (*path, key))


def _replaces(base: Any, over: Any, path: KeyPath) -> bool:
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return True
    name = _NAMES.get(path)
    return name in base and name in over and base[name] != over[name]
