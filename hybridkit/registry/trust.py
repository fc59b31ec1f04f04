"""Which code a user trusts: SHA-256 of plug-in files, kept in the user's own configuration and nowhere else.

A run folder brings copies of the plug-ins that it was trained with. Who made the folder cannot say that they may be
executed; only the user can, by naming a file with --plugin.
"""

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from hybridkit.system.errors import UserError
from hybridkit.system.terminal import say

FILE = "trusted.json"
_MOST = 1 << 24  # bytes of the file
_process: set[str] = set()  # trusted by this process alone, or by the file, too


def config_folder() -> Path | None:
    """$XDG_CONFIG_HOME/hybridkit or ~/.config/hybridkit; None where the system names neither."""
    named = os.environ.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(named):  # a relative one is to be ignored, says the XDG specification
        return Path(named, "hybridkit")
    if os.environ.get("HOME") == "":
        return None
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, and a user that the system does not know
        return None
    return home / ".config/hybridkit" if home.is_absolute() else None


def trusted(sha256: str) -> bool:
    """Whether the user trusts a file with this content. Raises UserError where the record cannot be read."""
    return sha256 in _process or sha256 in _recorded()


def trust(sha256: str, path: Path) -> None:
    """The user has named a file: trust its content from now on. Says so on standard error the first time.

    Where nothing can be recorded, trust lasts as long as this process.
    """
    if trusted(sha256):
        return
    _process.add(sha256)
    folder = config_folder()
    try:
        place = folder and _record(folder, sha256, path)
    except OSError:
        place = None
    kept = f"recorded in {place}" if place else "in this process only: there is no configuration folder to record it in"
    say(f"hybridkit: {path} is trusted from now on (sha256 {sha256}), {kept}", file=sys.stderr)


def _record(folder: Path, sha256: str, path: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    known = {**_recorded(), sha256: {"file": str(path.absolute()), "since": time.strftime("%Y-%m-%d")}}
    part = folder / f".{FILE}.{os.getpid()}"
    try:
        part.write_text(json.dumps({"sha256": known}, indent=1) + "\n", encoding="utf-8")
        part.replace(folder / FILE)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return folder / FILE


def _recorded() -> dict[str, Any]:
    folder = config_folder()
    file = folder and folder / FILE
    try:
        if file is None or not file.is_file() or file.stat().st_size > _MOST:
            return {}
        known = json.loads(file.read_text(encoding="utf-8"))["sha256"]
        if not isinstance(known, dict):
            raise TypeError("sha256 should be an object")
    except OSError:
        return {}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file}: not the record of trusted plug-ins: {error}; mend or remove it") from error
    return known
