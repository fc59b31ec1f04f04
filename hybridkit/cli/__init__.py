"""The verbs, one module each. Only typer is imported here: a verb imports what it needs when it runs."""

import errno
import importlib
import inspect
import io
import keyword
import os
import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from hybridkit import __version__
from hybridkit.system.collector import collect_no_more, end_without_collection
from hybridkit.system.errors import Failure, Interrupted, UserError, out_of_memory
from hybridkit.system.notices import listening
from hybridkit.system.terminal import hanging, never_fail_to_encode, say

VERBS = (
    "show", "flops", "train", "convert", "eval", "generate", "search", "report", "bench", "export", "import", "blocks",
    "doctor",
)  # fmt: skip
SHORT_VERBS = ("show", "flops", "blocks")  # they read and count


def verbs(names: Iterable[str] = VERBS) -> typer.Typer:
    """The command line with these verbs. To describe one, typer evaluates all its annotations, which takes time."""
    made = typer.Typer(
        help="Write a hybrid language model as one line, know its cost, train it, and measure what it remembers.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    made.callback()(_options)
    for name in names:
        verb = _verb(name)
        first = " ".join(inspect.cleandoc(verb.__doc__ or "").split("\n\n")[0].split())
        made.command(name, short_help=first)(verb)  # the summary is the docstring's first sentence, uncut
    return made


def _print_version(asked: bool) -> None:
    if asked:
        say(f"hybridkit {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that stand before the verb."""


def _verb(name: str) -> Callable[..., None]:
    """A verb is the function named like its module; Python's own words have an underscore."""
    own = f"{name}_" if keyword.iskeyword(name) else name
    verb: Callable[..., None] = getattr(importlib.import_module(f"hybridkit.cli.{own}"), own)
    return verb


def main() -> None:
    """Run the command line. Exit codes: 0, 1 failed, 2 bad input, 130 and 143 interrupted and resumable."""
    never_fail_to_encode()
    end_without_collection()
    asked = [word for word in sys.argv[1:2] if word in VERBS]
    if asked and asked[0] in SHORT_VERBS:
        collect_no_more()
    try:
        _check_folder()
        with listening(lambda text: say(text, file=sys.stderr)):
            sys.exit(verbs(asked or VERBS)(standalone_mode=False))
    except UserError as error:
        sys.exit(_complain(error, 2))
    except Failure as error:
        sys.exit(_complain(error, 1))
    except Interrupted as error:
        sys.exit(_complain(error, error.code))
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        line = str(error).partition("\n")[0][:200]
        sys.exit(_complain(Failure(f"not enough memory for sizes like these: {line or type(error).__name__}"), 1))
    except OSError as error:  # a disk that is full or gone, a folder that may not be written
        sys.exit(_complain(error, 2 if error.errno == errno.ENAMETOOLONG else 1))
    except typer.Abort:
        sys.exit(_complain(Failure("aborted: the input ended"), 1))
    except Exception as error:
        if not hasattr(error, "format_message"):  # an error of click, which typer imports or brings along, by version
            raise
        sys.exit(_explain(error))


def _check_folder() -> None:
    """Raises UserError where the current folder was deleted: libraries fail at that, some without a reason."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the current folder no longer exists; change to one that does") from None


def _complain(error: Exception, code: int) -> int:
    say(f"hybridkit: {hanging(' '.join([str(error), *getattr(error, '__notes__', [])]))}", file=sys.stderr)
    return code


def _explain(error: Any) -> int:
    """Print what is wrong with the options, and how they are used; the exit code."""
    said = io.StringIO()
    error.show(file=said)
    words = said.getvalue().replace(": Value error, ", ": ")  # pydantic's prefix, which typer passes on
    say(words, file=sys.stderr, end="")
    return int(error.exit_code)
