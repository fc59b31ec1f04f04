"""What a field of the recipe names: `name`, `name(arguments)`, or a text that the named class reads itself."""

from __future__ import annotations

import re
import sys
from abc import ABC
from collections.abc import Mapping
from functools import partial
from types import ModuleType
from typing import Any, ClassVar, Self

from hybridkit.language.parser import Call, pattern_tree
from hybridkit.language.pattern_source import PatternSource, error_at
from hybridkit.language.resolve import read_call
from hybridkit.registry.kinds import Kind
from hybridkit.registry.plugin_package import sha256, sources
from hybridkit.registry.registry import REGISTRY, Registry
from hybridkit.system.spec import Spec

_NAME = re.compile(r"\s*([^\W\d]\w*)")


class NamedSpec(Spec, ABC):
    """A class that a text of the recipe names, with its arguments; frozen."""

    key: ClassVar[str]  # of the recipe, for messages: "data.source"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The object that `text` says, or None where the text says something else.

        Called for texts that begin with the name of the class. Raises PatternError for wrong arguments.
        """
        if not re.fullmatch(rf"\s*{cls.name()}\s*(\(.*)?", text, re.DOTALL):
            return None
        place = PatternSource(cls.key, PatternSource.inline(text).lines)
        at = partial(error_at, place, text)
        call = pattern_tree(text, place)
        if not isinstance(call, Call) or call.window or call.beside:
            raise at((0, len(text)), f"should be a single call: {cls.name()}({', '.join(cls.usage())})")
        return read_call(call, cls, at)

    def code(self) -> Mapping[str, str]:
        """SHA-256 of the plug-in's files that define it, by name; none for a class of this package."""
        return plugin_code(type(self))


def plugin_code(cls: type) -> dict[str, str]:
    """SHA-256 of the plug-in's file that defines a class, and of neighbours whose classes or functions it uses."""
    if not sources([cls.__module__]):
        return {}
    modules: set[str] = set()
    _collect(cls.__module__, modules)
    files = {"/".join(module.split(".")[1:]) + ".py" for module in modules}
    return {name: sha256(raw) for name, raw in sources([cls.__module__]).items() if name in files}


def _collect(module: str, found: set[str]) -> None:
    """Add a module, and what it uses of its own package."""
    found.add(module)
    for value in vars(sys.modules[module]).values() if module in sys.modules else ():
        other = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(other, str) and other not in found and other.split(".")[0] == module.split(".")[0]:
            _collect(other, found)


def read_named(kind: Kind, text: str, registry: Registry = REGISTRY) -> Any:
    """The object of a kind that `text` names, or None where its first word is no name of the kind.

    Raises UserError where the class cannot be loaded or its arguments are wrong.
    """
    found = _NAME.match(text)
    if not found or found[1] not in registry.names(kind):
        return None
    return registry.get(kind, found[1]).parse(text)
