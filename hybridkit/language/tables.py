"""The parser's tables, kept beside the grammar: to derive them takes a tenth of a second, which every start would pay.

    python -m hybridkit.language.tables    # writes pattern.json anew, after a change of pattern.lark or of lark

The tables of another grammar or version of lark are not read: then the parser derives its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lark
from lark.grammar import Rule
from lark.lexer import TerminalDef

GRAMMAR = Path(__file__).with_name("pattern.lark")
TABLES = GRAMMAR.with_suffix(".json")
_OPTIONS: dict[str, Any] = {"parser": "lalr", "maybe_placeholders": False}


def parser(transformer: Any) -> lark.Lark:
    """The parser of the grammar, which calls a method of `transformer` for each rule."""
    tables = saved()
    if tables is None:
        return derived(transformer=transformer)
    made = lark.Lark.__new__(lark.Lark)
    return made._load(tables, transformer=transformer)  # as the parsers load that lark itself writes


def derived(**options: Any) -> lark.Lark:
    """The same parser, its tables derived from the grammar."""
    return lark.Lark(GRAMMAR.read_text(encoding="utf-8"), **_OPTIONS, **options)


def saved() -> dict[str, Any] | None:
    """The tables in `TABLES`; None where they are of another grammar or version of lark."""
    said = json.loads(TABLES.read_text(encoding="utf-8"), object_hook=_numbered) if TABLES.is_file() else {}
    return said["tables"] if said.get("of") == _of() else None


def save() -> None:
    """Write `TABLES`."""
    data, memo = derived().memo_serialize([TerminalDef, Rule])
    said = {"of": _of(), "tables": {"data": data, "memo": memo}}
    TABLES.write_text(json.dumps(said, separators=(",", ":")) + "\n", encoding="utf-8")


def _of() -> list[str]:
    """What the tables depend on."""
    return [lark.__version__, GRAMMAR.read_text(encoding="utf-8")]


def _numbered(said: dict[str, Any]) -> dict[Any, Any]:
    """JSON's keys are text; those of the tables are numbers."""
    return {int(key) if key.isdecimal() else key: value for key, value in said.items()}


if __name__ == "__main__":
    save()
