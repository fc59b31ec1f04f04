"""The arguments of `hybridkit eval` that a space file may give: none that names code, a path or another run."""

from __future__ import annotations

import shlex
from collections.abc import Collection

_WITH_VALUE = "context needles lengths windows samples seed score recall ablate tasks limit batch chunk device"
ALLOWED = {"perplexity": False, "no-perplexity": False} | dict.fromkeys(_WITH_VALUE.split(), True)  # takes a value?


def evaluation_texts(evaluate: str | list[str] | None) -> tuple[str, ...]:
    """The texts of `trial.evaluate`, one for each evaluation."""
    return (evaluate,) if isinstance(evaluate, str) else tuple(evaluate or ())


def read_arguments(text: str) -> tuple[str, ...]:
    """The words of `trial.evaluate`. Raises ValueError for an argument that a space file may not give."""
    words = shlex.split(text)
    left = list(words)
    while left:
        word = left.pop(0)
        name, sign, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in ALLOWED or (sign and not ALLOWED[name]):
            raise ValueError(f"{word[:80]!r} is not allowed in a space file; allowed: {_known()}")
        if ALLOWED[name] and not sign:
            value = left.pop(0) if left else "--"
        if value.startswith("-"):
            raise ValueError(f"--{name} needs a value")
    return tuple(words)


def ablations(text: str) -> list[str]:
    """The blocks that the arguments ablate."""
    return [words[1] for words in _options(text) if words[0] == "--ablate"]


def without_ablations(text: str, absent: Collection[str]) -> tuple[str, ...]:
    """The words of the arguments without the ablations of `absent` blocks."""
    left = [words for words in _options(text) if words[0] != "--ablate" or words[1] not in absent]
    return tuple(word for words in left for word in words)


def option_values(text: str) -> list[tuple[str, str]]:
    """The name of each option, without dashes, and its value; empty where it takes none."""
    return [(words[0].removeprefix("--"), words[1] if len(words) > 1 else "") for words in _options(text)]


def _options(text: str) -> list[list[str]]:
    """Each option of valid arguments, with its value if it takes one."""
    options: list[list[str]] = []
    for word in read_arguments(text):
        if options and len(options[-1]) == 1 and ALLOWED[options[-1][0].removeprefix("--")]:
            options[-1].append(word)
        else:
            options.append(word.split("=", 1))
    return options


def _known() -> str:
    return ", ".join(f"--{name}" for name in ALLOWED)
