"""The errors whose message alone is printed: those a user can mend (exit code 2), and runs that end early."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input. The message says where it is, what is wrong and what would be right."""


class MissingExtra(UserError):
    """A verb needs a package that only an extra installs."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs {package}, which is not installed; run: pip install 'hybridkit[{extra}]'")


class Failure(Exception):
    """What was asked for went wrong through no mistake in the input: the message alone, exit code 1."""


class Interrupted(Exception):
    """A signal stopped a run that can be resumed: exit code 128 + the signal's number."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.code = 128 + signal


def out_of_memory(error: Exception) -> bool:
    """Whether a machine is too small for what was asked: torch says so of a CPU and of sizes by words alone."""
    said = ("can't allocate memory", "Storage size calculation overflowed", "out of memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in said)
    )


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` most likely meant, if any comes near; case does not matter."""
    folded = {other.casefold(): other for other in sorted(known)}
    close = difflib.get_close_matches(name[:64].casefold(), folded, n=1)
    return folded[close[0]] if close else None
