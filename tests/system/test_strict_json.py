"""What is read and written as JSON is JSON."""

import ast
import json
import math
from pathlib import Path

import pytest
from project import ROOT

from hybridkit.system.strict_json import format_json, parse_json

CLI = ROOT / "hybridkit" / "cli"


@pytest.mark.parametrize(
    "text",
    [
        b"NaN",
        b"[Infinity]",
        b'{"a": -Infinity}',
        b"1e999",
        b"[" * 10**5,
        b'"\\ud800"',
        b"\xff",
        b"",
        b"1" + b"0" * 5000,
        b'{"a": {"loss": 1, "b": 2, "loss": 3}}',
    ],
)
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_what_is_not_finite_is_written_as_null() -> None:
    found = {"a": math.nan, "b": [1.5, math.inf, (-math.inf, 2)], "c": {"d": "NaN", "e": True}}
    text = format_json(found)
    assert parse_json(text.encode()) == {"a": None, "b": [1.5, None, [None, 2]], "c": {"d": "NaN", "e": True}}
    plain = {"a": [1, 2.5, None, "text"]}
    assert (format_json(plain), format_json(plain, indent=1)) == (json.dumps(plain), json.dumps(plain, indent=1))


@pytest.mark.parametrize("path", sorted(CLI.glob("*.py")), ids=lambda path: path.stem)
def test_every_verb_writes_its_json_through_one_function(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = {ast.unparse(call.func) for call in calls}
    assert not names & {"json.dumps", "dumps", "json.dump"}
