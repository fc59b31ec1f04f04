"""What a path leads to, and which verb takes it: words for messages about an argument of the wrong kind."""

import os
import re
from pathlib import Path

_SPACE = re.compile(rb"^(space|patterns)[ \t]*:", re.MULTILINE)
_RUN = ("recipe.yaml", "metrics.jsonl", "checkpoints")


def kind(path: Path) -> str:
    """`a run folder`, `a study folder`, `an exported model`, `an empty file`, `a space of recipes`, ..."""
    if path.is_dir():
        return _folder(path)
    if not os.path.lexists(path):
        return "no such file or folder"
    if not path.exists():
        return "a link that leads nowhere"
    if not path.is_file():
        return "neither a file nor a folder"
    if not path.stat().st_size:
        return "an empty file"
    if path.suffix not in (".yaml", ".yml"):
        return "a file"
    return "a space of recipes" if is_space(path) else "a recipe"


def is_space(path: Path) -> bool:
    """Whether a file is a space, which `hybridkit search` takes, and no recipe."""
    try:
        if not path.is_file():  # a pipe might never end
            return False
        with open(path, "rb") as file:
            return _SPACE.search(file.read(1 << 16)) is not None
    except OSError:
        return False


def advice(path: Path) -> str:
    """What to do with such a path instead; empty where there is no advice."""
    said = {
        "a run folder": f"did you mean {path / _RUN[0]}?",
        "a study folder": f"`hybridkit search report {path}` reports on it, and its runs are {path}/trials/*/seed-*",
        "a conversion whose last stage has not begun": "`hybridkit convert ... --resume` goes on, and the stages so"
        f" far are runs: {path}/stages/*",
        "a space of recipes": f"`hybridkit search {path}` searches it",
        "a recipe": f"`hybridkit train {path}` makes a run of it",
    }
    return said.get(kind(path), "")


def explain(path: Path, wanted: str) -> str:
    """`PATH: a study folder, not a run folder; ...`"""
    found = kind(path)
    hint = advice(path)
    return (
        f"{path}: {found}" + ("" if found.startswith("no such") else f", not {wanted}") + (f"; {hint}" if hint else "")
    )


def _folder(path: Path) -> str:
    try:
        names = set(os.listdir(path))
    except OSError:
        return "a folder that cannot be read"
    if names & set(_RUN):
        return "a run folder"
    if "study.json" in names:
        return "a study folder"
    if "conversion.json" in names:
        return "a conversion whose last stage has not begun"
    if "config.json" in names:
        return "an exported model"
    return "a folder" if names else "an empty folder"
