"""The parser's tables that ship are those of the grammar and of the tested lark, and read as derived ones do."""

from pathlib import Path

import pytest
from lark import Lark, UnexpectedInput

from hybridkit.language import parser, tables


def test_the_tables_that_ship_are_read_and_parse_as_the_grammar_does() -> None:
    assert tables.saved() is not None, "run: python -m hybridkit.language.tables"
    kept, derived = tables.parser(parser._Build()), tables.derived(transformer=parser._Build())
    for text in ("[swa(a=.5,b)*2,]", '[swa:stoch(1,2,p="x") | mlstm]*3', "[[sa]*2, swa:8]", "sa"):
        assert kept.parse(text) == derived.parse(text)
    for text in ("[sa", "sa*sa", "sa:", "]", "sa(", "[sa;", "sa 2"):
        assert refusal(kept, text) == refusal(derived, text)


def refusal(of: Lark, text: str) -> tuple[object, ...]:
    with pytest.raises(UnexpectedInput) as raised:
        of.parse(text)
    error = raised.value
    return type(error), error.pos_in_stream, getattr(error, "accepts", None), getattr(error, "allowed", None)


def test_tables_of_another_lark_are_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tables.lark, "__version__", "1.2.99")
    assert tables.saved() is None and tables.parser(parser._Build()).parse("sa") == parser.Call("sa")
    monkeypatch.setattr(tables, "TABLES", tmp_path / "none.json")
    assert tables.saved() is None
