"""Names and the classes behind them, for every kind: blocks, window policies, optimizers, engines and others.

Names come from the folder of a kind, from entry points of installed packages and from plug-in files. No module is
imported before its class is asked for, except plug-in files, whose one class tells their kind.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from hybridkit.registry.kinds import BLOCK, WINDOW, Kind
from hybridkit.registry.plugin import plugin_module, plugin_path, public_class
from hybridkit.system.errors import UserError, nearest
from hybridkit.system.terminal import shown

if TYPE_CHECKING:  # the vocabulary imports torch; a list of names needs none
    from hybridkit.block import Block, Entry, Window


@dataclass(frozen=True)
class Known:
    """A name of a kind, the module that holds its class, and who brings it."""

    kind: str
    name: str
    module: str
    owner: str  # a file, or a package that is installed

    def load(self) -> type:
        """The class, imported on first use. Raises UserError where the module fails or holds no such class."""
        kind, cls = public_class(self.module, self.owner)
        if kind != self.kind:
            raise UserError(f"{self.owner}: `{self.name}` should be a {self.kind}, and {cls.__name__} is a {kind}")
        return cls


class Row(NamedTuple):
    """One line of `hybridkit blocks`; `arguments` as a pattern writes them: `p=.5` with its default, else `short`."""

    kind: str
    name: str
    owner: str
    arguments: tuple[str, ...]
    doc: str


class Registry:
    """The names of every kind. A name that two owners claim is a UserError at the first look-up of its kind."""

    def __init__(self, plugins: tuple[str | Path, ...] = ()) -> None:
        self._plugins: dict[Path, _Plugin] = {}
        for path in plugins:
            self.add(path)

    def add(self, path: str | Path, expected: Mapping[str, str] | None = None, *, named: bool = False) -> None:
        """Take in a plug-in file; adding it again changes nothing. Raises UserError unless it is an importable file.

        `expected`: the SHA-256 of each file of its folder that may be executed; None: any. `named`: the user typed the
        file's name, which is how its content becomes trusted.
        """
        path = plugin_path(path)
        self._plugins[path] = _Plugin(path, expected, named or (path in self._plugins and self._plugins[path].named))
        self._forget()

    def clear(self) -> None:
        """Forget all plug-in files."""
        self._plugins.clear()
        self._forget()

    def _forget(self) -> None:
        for name in ("entries", "elements", "_known", "_plugged", "_classes"):
            self.__dict__.pop(name, None)

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """What calls of patterns and `model.ffn` stand for, kept by those who read them: equal ones are one object."""
        return {}

    @cached_property
    def elements(self) -> dict[str, tuple[Entry, ...]]:
        """What the elements of patterns stand for by their text, kept by `language.resolve`."""
        return {}

    @property
    def plugins(self) -> tuple[Path, ...]:
        """The plug-in files that were added."""
        return tuple(self._plugins)

    def copy(self) -> Registry:
        """Another registry with the same plug-in files."""
        made = Registry()
        made._plugins = dict(self._plugins)
        return made

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Pickled as its plug-in files, since classes of plug-ins can only be imported where those were added."""
        return "REGISTRY" if self is REGISTRY else (_with_plugins, (tuple(self._plugins.values()),))

    def get(self, kind: Kind, name: str) -> Any:
        """The class of a name. Raises UserError for an unknown name, or where its module fails."""
        known = self._of(kind)
        if name not in known:
            raise UserError(f"unknown {kind} {shown(name)}; {self._hint(kind, name)}")
        if (kind, name) not in self._classes:
            self._classes[kind, name] = known[name].load()
        return self._classes[kind, name]

    def block(self, name: str) -> type[Block]:
        """The class of a block; see `get`."""
        return self.get(BLOCK, name)

    def window(self, name: str) -> type[Window]:
        """The class of a window policy; see `get`."""
        return self.get(WINDOW, name)

    def names(self, kind: Kind) -> list[str]:
        """The known names of a kind, in order."""
        return sorted(self._of(kind))

    def listing(self, *kinds: Kind) -> list[Row]:
        """Everything of these kinds, each with its arguments; imports all of it. None given: blocks, then windows."""
        return [_row(known) for kind in kinds or (BLOCK, WINDOW) for _, known in sorted(self._of(kind).items())]

    def _hint(self, kind: Kind, name: str) -> str:
        """What may be meant by an unknown name."""
        other = next((plugin for plugin in self._plugged if plugin.name == name), None)
        if other:
            return f"{other.owner} is a {other.kind}, not a {kind}"
        known = self.names(kind)
        near = nearest(name, known)
        return f"did you mean `{near}`?" if near else f"known are {', '.join(known)}, and what --plugin FILE.py names"

    def _of(self, kind: Kind) -> dict[str, Known]:
        if kind not in self._known:
            plugged = (one for one in self._plugged if one.kind == kind.name)
            self._known[kind] = _by_name((*_in_folder(kind), *_installed(kind, self._points), *plugged))
        return self._known[kind]

    @cached_property
    def _points(self) -> metadata.EntryPoints:
        """The entry points of all packages that are installed: each one's file is read, which is done once."""
        return cast("metadata.EntryPoints", metadata.entry_points())  # 3.11 has a class of its own, which selects alike

    @cached_property
    def _known(self) -> dict[Kind, dict[str, Known]]:
        """What was looked up so far."""
        return {}

    @cached_property
    def _classes(self) -> dict[tuple[Kind, str], type]:
        """What was loaded so far."""
        return {}

    @cached_property
    def _plugged(self) -> tuple[Known, ...]:
        """What the plug-in files hold; imports them."""
        return tuple(map(_plugin, self._plugins.values()))


def _by_name(found: Iterable[Known]) -> dict[str, Known]:
    known: dict[str, Known] = {}
    for one in found:
        other = known.setdefault(one.name, one)
        if other is not one:
            raise UserError(f"two {one.kind}s are named `{one.name}`: by {other.owner} and by {one.owner}")
    return known


def _in_folder(kind: Kind) -> Iterator[Known]:
    spec = importlib.util.find_spec(kind.package)
    assert spec is not None and spec.submodule_search_locations is not None
    for root in map(Path, spec.submodule_search_locations):
        for file in sorted(root.glob("[!_]*.py")):
            yield Known(kind.name, file.stem, f"{kind.package}.{file.stem}", str(file))
        for file in sorted(root.glob("[!_]*/__init__.py")) if kind.subfolders else ():
            yield Known(kind.name, file.parent.name, f"{kind.package}.{file.parent.name}", str(file))


def _installed(kind: Kind, points: metadata.EntryPoints) -> Iterator[Known]:
    for point in points.select(group=kind.group):
        owner = f"package {point.dist.name}" if point.dist else f"entry point {point.value}"
        if point.module.rpartition(".")[2] != point.name:
            raise UserError(f"{owner}: entry point `{point.name}` should be named like its module, {point.module}")
        yield Known(kind.name, point.name, point.module, owner)


class _Plugin(NamedTuple):
    """A plug-in file, and what is known of its content."""

    path: Path
    expected: Mapping[str, str] | None
    named: bool


def _with_plugins(plugins: Iterable[_Plugin]) -> Registry:
    made = Registry()
    for plugin in plugins:
        made.add(*plugin[:2], named=plugin.named)
    return made


def _plugin(plugin: _Plugin) -> Known:
    path, expected, named = plugin
    module = plugin_module(path, expected, named=named)
    return Known(public_class(module, str(path))[0], path.stem, module, str(path))


def _row(known: Known) -> Row:
    cls = known.load()
    doc = (inspect.getdoc(cls) or "").partition("\n")[0]
    usage = getattr(cls, "usage", tuple)
    return Row(known.kind, known.name, known.owner, usage(), doc)


REGISTRY = Registry()
