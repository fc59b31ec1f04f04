"""Printing for people: no name in a text can control the terminal, and no character is lost in encoding.

Names come from files, keys, folders and tokenizers of strangers. An escape sequence in one could clear the screen, a
bidirectional mark could reorder a line. All that is printed goes through here; hybridkit.report.console draws with it.
"""

import os
import re
import shlex
import sys
import unicodedata
from io import TextIOWrapper
from types import EllipsisType
from typing import TextIO

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, marks of format, half surrogate pairs, line and paragraph ends
_KEPT = "\n\t\u200c\u200d"  # the last two join letters of some scripts, and emoji
_QUOTED = 32  # characters of a name that a message repeats
_FURTHER = re.compile(r"\n(?=[^ \n])")


def harmless(text: str) -> str:
    r"""The text, its control and format characters, but line ends and tabs, as escapes such as `\x1b` and `\u202e`."""
    return text if text.isprintable() else "".join(map(_visible, text))


def printable(text: str) -> str:
    """The text with blanks for tabs and other white space, and U+FFFD for other characters that are not printable."""
    return "".join(char if char.isprintable() else " " if char.isspace() else "\ufffd" for char in text)


def shown(text: str) -> str:
    """A text as a message quotes it: in backticks, printable, and cut short."""
    return f"`{printable(text[:_QUOTED])}{'...' if len(text) > _QUOTED else ''}`"


def as_argument(path: object) -> str:
    """A path as a command that is copied into a shell takes it: quoted where it must be, and never an option."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def one_line(text: str) -> str:
    r"""A name as a table or picture shows it: harmless, line ends and tabs as `\n` and `\t`."""
    return harmless(text).replace("\n", "\\n").replace("\t", "\\t")


def hanging(text: str) -> str:
    """A message whose further lines are indented, so that no name in it can begin what looks like another message."""
    return _FURTHER.sub("\n  ", harmless(text))


def character(char: str) -> str:
    """A character that cannot be seen, as a message names it: U+00A0 (no-break space)."""
    name = unicodedata.name(char, "").lower()
    return f"U+{ord(char):04X}" + (f" ({name})" if name else "")


def say(text: object = "", *, file: TextIO | EllipsisType | None = ..., end: str = "\n") -> None:
    """Print, harmlessly, at once; on standard output unless `file` is given, nowhere if it is None: a closed stream."""
    out = sys.stdout if file is ... else file
    if out is not None:
        print(harmless(str(text)), end=end, file=out, flush=True)


def say_part(text: str) -> None:
    """Print a part of a model's text: harmlessly on a terminal, unchanged into a pipe or file."""
    print(harmless(text) if is_terminal(sys.stdout) else text, end="", flush=True)


def is_terminal(file: TextIO | None) -> bool:
    """Whether a stream is a terminal; None is a standard stream that was closed."""
    return file is not None and file.isatty()


def redraws(file: TextIO | None) -> bool:
    """Whether a live display can be drawn: on a terminal whose cursor moves. On others, lines are printed."""
    return is_terminal(file) and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def never_fail_to_encode() -> None:
    r"""Have standard output and error write `\u4e2d` for a character that their encoding lacks, rather than fail."""
    for file in (sys.stdout, sys.stderr):
        if isinstance(file, TextIOWrapper):
            file.reconfigure(errors="backslashreplace")


def _visible(char: str) -> str:
    hidden = unicodedata.category(char) in _HIDDEN and char not in _KEPT
    return char.encode("unicode_escape").decode("ascii") if hidden else char
