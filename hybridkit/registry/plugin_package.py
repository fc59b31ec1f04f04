"""A folder of plug-ins as an importable package that knows, by hash, every file of it that was executed.

Source is compiled from the bytes that were hashed, never from a .pyc file: Python would use one that is out of date
where the source has the same size and was changed in the same second.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import CodeType, ModuleType

from hybridkit.registry.trust import trust
from hybridkit.system.errors import UserError

PREFIX = "hybridkit_plugin_"


def sha256(raw: bytes) -> str:
    """In hexadecimal digits."""
    return hashlib.sha256(raw).hexdigest()


class Package:
    """The importable package of a folder. `expected`: the hash of every file that may be executed; None: any file."""

    def __init__(self, name: str, folder: Path, expected: Mapping[str, str] | None) -> None:
        self.name, self.folder, self.expected = name, folder, expected
        self.loaded: dict[str, bytes] = {}  # by name in the folder, what was executed
        self.plugins: set[str] = set()  # stems of the files that were asked for by themselves
        self.named = False  # the user has named a file of it: the files beside it that it imports are then trusted, too

    def spec(self, module: str) -> ModuleSpec | None:
        """How to import a module of the package, `package.stem` or deeper; None where there is none.

        Raises UserError for a file that is not as expected.
        """
        inside = module.split(".")[1:]
        base = self.folder.joinpath(*inside)
        for path, is_package in ((base / "__init__.py", True), (base.with_name(f"{base.name}.py"), False)):
            if path.is_file():
                return _spec(module, _Source(path, self._read(path)), str(path), is_package)
        if self.expected is not None:
            return None
        if base.is_dir():
            return _spec(module, _Source(base, b""), str(base), True)
        return self._compiled(module, base.parent)

    def _compiled(self, module: str, folder: Path) -> ModuleSpec | None:
        """A module that is no source, such as an extension module."""
        found = PathFinder.find_spec(module, [str(folder)])
        if found and found.origin and Path(found.origin).is_file():
            self._read(Path(found.origin))
        return found

    def _read(self, path: Path) -> bytes:
        """The content of a file that is about to be executed."""
        name = path.relative_to(self.folder).as_posix()
        raw = path.read_bytes()
        if self.expected is not None and self.expected.get(name) != sha256(raw):
            wanted = self.expected.get(name)
            said = f"has sha256 {sha256(raw)}, and {wanted} in the record" if wanted else "is not in the record"
            raise UserError(f"{path} {said} of the run; it is not executed")
        if self.named:
            trust(sha256(raw), path)
        self.loaded[name] = raw
        return raw


_PACKAGES: dict[str, Package] = {}


def open_package(folder: Path, expected: Mapping[str, str] | None = None, *, named: bool = False) -> Package:
    """The package of a folder, the same for the same `expected`; importable from now on, in this process."""
    key = json.dumps([str(folder), expected and sorted(expected.items())])
    name = PREFIX + hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    if name not in _PACKAGES:
        _PACKAGES[name] = Package(name, folder, expected)
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = []
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.append(_Finder())
    _PACKAGES[name].named |= named
    importlib.invalidate_caches()
    return _PACKAGES[name]


def sources(modules: Iterable[str]) -> dict[str, bytes]:
    """What was executed from the packages of these modules, as it is copied to a run: content by name.

    Modules that are no plug-ins' are left out, and so are other plug-ins of the folder that none of them imports. Files
    of a second folder, and of others, stand under `2/`, `3/` ...
    """
    used: dict[str, set[str]] = {}
    for module in modules:
        package, _, stem = module.partition(".")
        if package in _PACKAGES:
            used.setdefault(package, set()).add(stem.partition(".")[0])
    found = dict[str, bytes]()
    packages = sorted((_PACKAGES[name] for name in used), key=lambda one: str(one.folder))
    for number, one in enumerate(packages, start=1):
        place = f"{number}/" if number > 1 else ""
        other = {f"{stem}.py" for stem in one.plugins - _imported(one, used[one.name])}
        found |= {f"{place}{name}": raw for name, raw in one.loaded.items() if name not in other}
    return dict(sorted(found.items()))


def _imported(package: Package, stems: set[str]) -> set[str]:
    """These files of a package, and those that they import from it, directly or not."""
    found, waiting = set[str](), list(stems)
    while waiting:
        stem = waiting.pop()
        if stem not in found:
            found.add(stem)
            waiting += _neighbours(package.loaded.get(f"{stem}.py", b""))
    return found


def _neighbours(source: bytes) -> Iterator[str]:
    """The modules of its own package that a module imports: `from . import a`, `from .a import b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield from [node.module.partition(".")[0]] if node.module else [alias.name for alias in node.names]


def loaded_hash(path: Path) -> str:
    """The hash of a file of plug-ins: of what was executed, where it was; else as it lies there. Raises OSError."""
    for package in _PACKAGES.values():
        if package.expected is None and path.is_relative_to(package.folder):
            name = path.relative_to(package.folder).as_posix()
            if name in package.loaded:
                return sha256(package.loaded[name])
    return sha256(path.read_bytes())


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package = _PACKAGES.get(fullname.partition(".")[0])
        return package.spec(fullname) if package and "." in fullname else None


class _Source(InspectLoader):
    """Executes the bytes that were hashed."""

    def __init__(self, path: Path, raw: bytes) -> None:
        self._path, self._raw = path, raw

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self._raw)

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = compile(self._raw, str(self._path), "exec", dont_inherit=True)
        return code


def _spec(module: str, loader: _Source, origin: str, is_package: bool) -> ModuleSpec:
    spec = ModuleSpec(module, loader, origin=origin, is_package=is_package)
    spec.has_location = True
    return spec
