"""Errors of which only the message is printed: bad input (exit code 2), failures, and runs that end early."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Bad input. The message says where it is, what is wrong and what would be right."""


class MissingExtra(UserError):
    """A verb needs a package that only an extra installs."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs {package}, which is not installed; run: pip install 'hybridkit[{extra}]'")


class Failure(Exception):
    """A verb failed although its input was right: exit code 1."""


class Interrupted(Exception):
    """A signal stopped a run that can be resumed: exit code 128 + the signal's number."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.code = 128 + signal


def out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory ran out. Of a CPU, and of sizes, torch says so only in the message."""
    said = ("can't allocate memory", "Storage size calculation overflowed", "out of memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in said)
    )


@contextmanager
def naming(settings: str) -> Iterator[None]:
    """Where memory runs out within, a Failure that names settings which need less."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        line = str(error).partition("\n")[0][:200] or type(error).__name__
        raise Failure(f"not enough memory ({line}); less is needed with {settings}") from error


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like `name`, if any is close; case does not matter."""
    folded = {other.casefold(): other for other in sorted(known)}
    close = difflib.get_close_matches(name[:64].casefold(), folded, n=1)
    return folded[close[0]] if close else None
