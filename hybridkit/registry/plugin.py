"""A module to the one public class of a kind that it holds, and the plug-in files that bring such classes."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from hybridkit.registry.plugin_package import open_package
from hybridkit.system.errors import UserError


def plugin_path(path: str | Path) -> Path:
    """The absolute path of a plug-in. Raises UserError unless it is a Python file whose name can be a name."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: {'a plug-in is a file, not a folder' if path.is_dir() else 'no such plug-in file'}")
    if path.suffix != ".py" or not path.stem.isidentifier() or path.stem.startswith("_"):
        raise UserError(f"{path}: a plug-in is named by its file: a Python name and .py, as in my_block.py")
    return path.resolve()


def plugin_module(path: Path, expected: Mapping[str, str] | None = None, *, named: bool = False) -> str:
    """The name under which a plug-in file can be imported, in this process: one package for every folder of plug-ins.

    An ordinary package rather than a file executed by hand: its classes pickle, it may import its neighbours
    (`from ._helper import f`), and its last part is the file's stem, the plug-in's name. `expected`: the SHA-256 of all
    files that may be executed, by their names in the folder. `named`: the user has named the file and trusts it.
    """
    package = open_package(path.parent, expected, named=named)
    package.plugins.add(path.stem)
    return f"{package.name}.{path.stem}"


def public_class(module: str, owner: str) -> tuple[str, type]:
    """The kind ("block") of the one public class of any kind that `module` defines, and the class.

    Raises UserError, beginning with `owner`, where the import fails or there is not exactly one such class.
    """
    held = [
        (kind, cls)
        for name, cls in vars(_imported(module, owner)).items()
        if inspect.isclass(cls) and cls.__module__ == module and name[0] != "_" and (kind := _kind(cls))
    ]
    if len(held) != 1:
        found = f"holds {len(held)}: {', '.join(cls.__name__ for _, cls in held)}" if held else "holds none"
        raise UserError(f"{owner}: {module} needs one public class of a kind, such as Block or Window, and {found}")
    return held[0]


def _kind(cls: type) -> str | None:
    """What the base of a class says of its kind; a class that says it of itself is such a base, or none."""
    said = (vars(base).get("kind") for base in cls.__mro__[1:])
    return next((kind for kind in said if isinstance(kind, str)), None)


def _imported(module: str, owner: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a plug-in may raise anything; the message names its file
        where = f", line {line}" if (line := _line(error, module)) else ""
        raise UserError(f"{owner}{where}: {type(error).__name__}: {error}") from error


def _line(error: BaseException, module: str) -> int | None:
    """The line of the module that was running when it failed, or that does not parse."""
    if isinstance(error, SyntaxError):
        return error.lineno
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_globals["__name__"] == module]
    return lines[-1] if lines else None
