"""Which names a pattern may use, and the classes behind them.

Names come from the folder of blocks, from entry points of installed packages and from plugin files; none of their
modules is imported before its class is asked for, save the plugin files', whose one class tells what they are.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hybridkit.registry.plugin import Kind, plugin_module, plugin_path, public_class
from hybridkit.system.errors import UserError, nearest
from hybridkit.system.terminal import shown

if TYPE_CHECKING:  # the vocabulary imports torch; a list of names needs none
    from hybridkit.block import Block, Spec, Window


@dataclass(frozen=True)
class Known:
    """A name that patterns may use: a block or a window policy, the module that holds it, and whose it is."""

    kind: Kind
    name: str
    module: str
    owner: str  # a file, or a package that is installed

    def load(self) -> type[Spec]:
        """The class, imported on first use. Raises UserError where the module fails or holds no such class."""
        kind, cls = public_class(self.module, self.owner)
        if kind != self.kind:
            raise UserError(f"{self.owner}: `{self.name}` should be a {self.kind}, and {cls.__name__} is a {kind}")
        return cls


class Row(NamedTuple):
    """One line of `hybridkit blocks`; `arguments` as a pattern writes them: `p=.5` with its default, else `short`."""

    kind: Kind
    name: str
    owner: str
    arguments: tuple[str, ...]
    doc: str


class Registry:
    """The names that patterns may use. A name that two owners claim is a UserError at the first look-up."""

    def __init__(self, plugins: tuple[str | Path, ...] = ()) -> None:
        self._plugins: dict[Path, _Plugin] = {}
        for path in plugins:
            self.add(path)

    def add(self, path: str | Path, expected: Mapping[str, str] | None = None, *, named: bool = False) -> None:
        """Take in a plugin file; adding it again changes nothing. Raises UserError unless it is an importable file.

        `expected`: the SHA-256 of each file of its folder that may be executed; None: any. `named`: the user typed the
        file's name, which is how its content becomes trusted.
        """
        path = plugin_path(path)
        self._plugins[path] = _Plugin(path, expected, named or (path in self._plugins and self._plugins[path].named))
        self.__dict__.pop("_known", None)

    @property
    def plugins(self) -> tuple[Path, ...]:
        """The plugin files that were added."""
        return tuple(self._plugins)

    def copy(self) -> Registry:
        """Another registry with the same plugin files."""
        made = Registry()
        made._plugins = dict(self._plugins)
        return made

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Pickled as its plugin files, since classes of plug-ins can only be imported where those were added."""
        return "REGISTRY" if self is REGISTRY else (_with_plugins, (tuple(self._plugins.values()),))

    def block(self, name: str) -> type[Block]:
        """The class of a block. Raises UserError for an unknown name, or where its module fails."""
        return self._load("block", name)

    def window(self, name: str) -> type[Window]:
        """The class of a window policy. Raises UserError for an unknown name, or where its module fails."""
        return self._load("window", name)

    def names(self, kind: Kind) -> list[str]:
        """The known names of a kind, in order."""
        return sorted(name for of, name in self._known if of == kind)

    def listing(self) -> list[Row]:
        """Everything that patterns may name: blocks, then windows, each with its arguments. Imports all of them."""
        return [_row(known) for _, known in sorted(self._known.items())]

    def _load(self, kind: Kind, name: str) -> Any:
        if (kind, name) not in self._known:
            near = nearest(name, self.names(kind))
            hint = f"did you mean `{near}`?" if near else f"known are {', '.join(self.names(kind))}"
            raise UserError(f"unknown {kind} {shown(name)}; {hint}")
        return self._known[kind, name].load()

    @cached_property
    def _known(self) -> dict[tuple[Kind, str], Known]:
        known: dict[tuple[Kind, str], Known] = {}
        for found in (*_in_folder(), *_installed(), *map(_plugin, self._plugins.values())):
            other = known.setdefault((found.kind, found.name), found)
            if other is not found:
                raise UserError(f"two {found.kind}s are named `{found.name}`: by {other.owner} and by {found.owner}")
        return known


def _in_folder() -> Iterator[Known]:
    spec = importlib.util.find_spec("hybridkit_blocks")
    assert spec is not None and spec.submodule_search_locations is not None
    places: tuple[tuple[Kind, str, str], ...] = (("block", ".", ""), ("window", "windows", "windows."))
    for kind, folder, package in places:
        for root in spec.submodule_search_locations:
            for file in sorted((Path(root) / folder).glob("[!_]*.py")):
                yield Known(kind, file.stem, f"hybridkit_blocks.{package}{file.stem}", str(file))


def _installed() -> Iterator[Known]:
    groups: tuple[tuple[Kind, str], ...] = (("block", "hybridkit.blocks"), ("window", "hybridkit.windows"))
    for kind, group in groups:
        for point in metadata.entry_points(group=group):
            owner = f"package {point.dist.name}" if point.dist else f"entry point {point.value}"
            if point.module.rpartition(".")[2] != point.name:
                raise UserError(f"{owner}: entry point `{point.name}` should be named like its module, {point.module}")
            yield Known(kind, point.name, point.module, owner)


class _Plugin(NamedTuple):
    """A plugin file, and what is known of its content."""

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
    return Row(known.kind, known.name, known.owner, cls.usage(), doc)


REGISTRY = Registry()
