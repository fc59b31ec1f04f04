"""Text for people: no name in it reaches a terminal as an order, and no encoding stops it."""

import ast
import io
import shlex
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from names import HOSTILE, raw_controls
from project import ROOT

from hybridkit.system.terminal import as_argument, hanging, harmless, never_fail_to_encode, one_line, say, say_part

HOME = ROOT / "hybridkit/system/terminal.py"


def test_ordinary_text_stays_as_it_is() -> None:
    for text in ("plain", "Ωμέγα 日本語 — 😀", "two\n\tlines", "\u0646\u200c\u0627", "👩\u200d💻", "a\u00a0b\u3000c"):
        assert harmless(text) == text


def test_every_character_that_orders_or_hides_becomes_an_escape_of_its_own() -> None:
    for char in map(chr, range(sys.maxunicode + 1)):
        if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char not in "\n\t\u200c\u200d":
            assert harmless(char).isascii() and harmless(char).isprintable() and len(harmless(char)) > 1
    assert harmless("a\x1b[31m\x9b\u202e\udcff") == "a\\x1b[31m\\x9b\\u202e\\udcff"


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_name_takes_one_line_and_a_message_begins_once(name: str) -> None:
    assert raw_controls(one_line(name)) == "" and "\n" not in one_line(name)
    lines = hanging(f"{name}: no such file; see {name}").split("\n")
    assert all(line.startswith(" ") for line in lines[1:] if line)


@pytest.mark.parametrize("name", ["runs/a", "--help", "-", "a$b^{$", " sp ", "it's", "a;b", "$(x)"])
def test_a_command_that_is_copied_names_the_same_path(name: str) -> None:
    (word,) = shlex.split(as_argument(name))
    assert Path(word) == Path(name) and not word.startswith("-")


def test_a_models_text_is_harmless_on_a_terminal_and_unchanged_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    for out, shown in ((Screen(), "a\\x1b[2J\n"), (io.StringIO(), "a\x1b[2J\n")):
        monkeypatch.setattr(sys, "stdout", out)
        say_part("a\x1b[2J\n")
        assert out.getvalue() == shown


def test_a_character_that_the_encoding_lacks_is_written_as_an_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in ("latin-1", "ascii", "cp1252"):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        never_fail_to_encode()
        say("日")
        say_part("\u20ac日")
        sys.stdout.flush()
        assert raw.getvalue().endswith(b"\\u65e5") and raw.getvalue().startswith(b"\\u65e5\n")


def test_a_closed_stream_gets_nothing_and_no_other_stream_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", out := io.StringIO())
    say("for standard error", file=None)  # sys.stderr of a process without one
    say("for all")
    assert out.getvalue() == "for all\n"
    monkeypatch.setattr(sys, "stdout", None)
    say("for nobody")
    say_part("for nobody")


def calls(path: Path) -> Iterator[ast.Call]:
    yield from (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call))


def name_of(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


SOURCES = sorted((ROOT / "hybridkit").rglob("*.py"))


def test_only_one_module_prints() -> None:
    for path in set(SOURCES) - {HOME}:
        said = [call.lineno for call in calls(path) if isinstance(call.func, ast.Name) and call.func.id == "print"]
        assert not said, f"{path}:{said}: say() prints names harmlessly, print() does not"


def test_rich_is_imported_for_one_console_and_pictures_are_written_in_one_module() -> None:
    for path in SOURCES:
        text = path.read_text("utf-8")
        if path.name not in ("console.py", "live.py"):  # the second draws on the first's console
            assert "import rich" not in text and "from rich" not in text, f"{path}: rich reads names as markup"
        if path.name != "figure.py":
            assert "savefig" not in text and "mathtext" not in text, f"{path}: matplotlib reads names as TeX"


def test_labels_in_pictures_are_made_of_words_or_go_through_label() -> None:
    for path in (ROOT / "hybridkit/report").glob("*.py"):
        for call in calls(path):
            for keyword in call.keywords:
                if keyword.arg == "label" and isinstance(keyword.value, ast.JoinedStr):
                    pytest.fail(f"{path}:{call.lineno}: a legend hides a label that begins in _")


@pytest.mark.parametrize("folder", ["hybridkit", "blocks", "tools"])
def test_text_files_are_utf_8_whatever_the_locale(folder: str) -> None:
    """Every call that opens a file or a pipe as text names its encoding."""
    for path in (ROOT / folder).rglob("*.py"):
        for call in calls(path):
            given = {keyword.arg for keyword in call.keywords}
            words = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
            texts = name_of(call) in ("read_text", "write_text") and not isinstance(call.func, ast.Name)
            if name_of(call) in ("open", "fdopen") and getattr(getattr(call.func, "value", None), "id", "") != "Lark":
                modes = [word for word in words if isinstance(word, str) and set(word) <= set("rwaxbt+") and word]
                modes += [keyword.value.value for keyword in call.keywords if keyword.arg == "mode"]  # type: ignore
                modes += ["r"] * (isinstance(call.func, ast.Name) or not call.args)
                texts = bool(modes) and not any("b" in mode for mode in modes)
            texts |= "text" in given and name_of(call) in ("run", "Popen", "check_output")
            assert not texts or "encoding" in given, f"{path}:{call.lineno}: the locale chooses the encoding"
