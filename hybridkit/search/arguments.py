"""The arguments of `hybridkit eval` that a space file may give: none that names code, a path or another run."""

from __future__ import annotations

import shlex

_WITH_VALUE = "context needles lengths windows samples seed score recall ablate tasks limit batch chunk device"
ALLOWED = {"perplexity": False, "no-perplexity": False} | dict.fromkeys(_WITH_VALUE.split(), True)  # takes a value?


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


def _known() -> str:
    return ", ".join(f"--{name}" for name in ALLOWED)
