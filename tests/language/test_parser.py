"""Patterns read: the flat list they stand for, their bounds, and errors that point."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridkit.block import Value, write_value
from hybridkit.language.parser import MAX_ENTRIES, MAX_LEVELS, MAX_PATTERN_BYTES, Call, parse_pattern
from hybridkit.language.pattern_source import PatternError, PatternSource, SourceLine, error_at

SA, MLSTM = Call("sa"), Call("mlstm")


def mistake(text: str, source: PatternSource | None = None) -> PatternError:
    with pytest.raises(PatternError) as raised:
        parse_pattern(text, source)
    return raised.value


def swa(*arguments: object, policy: str = "fixed") -> Call:
    said = tuple(a if isinstance(a, tuple) else (None, a) for a in arguments)
    return Call("swa", window=Call(policy, said))


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("sa", (SA,)),
        ("mlstm*24", (MLSTM,) * 24),
        ("[sa]", (SA,)),
        ("[sa, mlstm,]", (SA, MLSTM)),
        ("[[mlstm]*7, sa]*3", ((MLSTM,) * 7 + (SA,)) * 3),
        ("[sa*2]*3", (SA,) * 6),
        ("[swa:1024*5, sa]*4", ((swa(1024),) * 5 + (SA,)) * 4),
        ("swa:stoch(128,2048,p=.5)", (swa(128, 2048, ("p", 0.5), policy="stoch"),)),
        ("swa:schedule(0=128, .5=512)", (swa((0, 128), (0.5, 512), policy="schedule"),)),
        (" [ swa : 128 *\n2 ,\tmlstm ] * 2 \n", (swa(128), swa(128), MLSTM) * 2),
        ("sa()", (SA,)),
    ],
)
def test_a_pattern_stands_for_its_flat_list(text: str, calls: tuple[Call, ...]) -> None:
    assert parse_pattern(text) == calls


def test_arguments_are_numbers_words_and_quoted_text() -> None:
    (call,) = parse_pattern('sa(1, -25, .5, 5e-1, -1.5E+3, null, true, false, layer, a=b, "two \\"words\\"\\n", x="",)')
    values = [1, -25, 0.5, 0.5, -1500.0, None, True, False, "layer", "b", 'two "words"\n', ""]
    assert [(type(value), value) for _, value in call.arguments] == [(type(value), value) for value in values]
    assert [key for key, _ in call.arguments if key] == ["a", "x"]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from([None, True, False, "null", "true", "layer", "\u2118", "a b", '"', "\\"])
)
def test_what_blocks_write_of_a_value_reads_back(value: Value) -> None:
    (call,) = parse_pattern(f"sa({write_value(value)}, key={write_value(value)})")
    assert call.arguments == ((None, value), ("key", value))


def test_spans_mark_names_arguments_and_windows() -> None:
    text = "[sa, swa(kv_heads = 4):stoch(128, p=.5)]"
    call = parse_pattern(text)[1]
    assert call.window is not None
    spans = [call.span.name, *call.span.arguments, call.window.span.name, *call.window.span.arguments]
    assert [text[begin:end] for begin, end in spans] == ["swa", "kv_heads = 4", "stoch", "128", "p=.5"]


# Each with a bar before the place that the caret has to mark, and words that its message has to hold.
MISTAKES = [
    ("|", "the name of a block"),
    ("|  ", "the name of a block"),
    ("sa*2|;", "or the end"),
    ("[|]", "at least one block"),
    ("[sa,|,mlstm]", "the name of a block"),
    ("sa|, mlstm", "brackets: [sa, mlstm]"),
    ("[sa|", "the `[` at 1:1 is not closed"),
    ("[sa, [mlstm|", "the `[` at 1:6 is not closed"),
    ("[sa]|]", "no `[` is open"),
    ("[sa|)]", "no `(` is open"),
    ("[sa(1|], mlstm]", "the `(` at 1:4 is not closed"),
    ("sa(kv_heads=|)", "an argument"),
    ("sa(kv_heads|", "the `(` at 1:3 is not closed"),
    ("mlstm:|", "a window"),
    ("[mlstm:|, sa]", "a window"),
    ("sa*|", "a repeat count"),
    ("sa*|x", "a repeat count"),
    ("sa*|0", "at least 1"),
    ("sa*|-1", "at least 1"),
    ("sa*|1.5", "whole number"),
    ("[sa*2|*3]", "multiply the two counts"),
    ("|2*sa", "after what it repeats"),
    ("[sa |mlstm]", "`,`"),
    ("sa|@", "unexpected `@`"),
    ("|\0", "the name of a block"),
    ("|🙂", "the name of a block"),
    ("sa|\ud800", "unexpected"),
    ('sa(|"x)', 'no closing `"`'),
    ('sa(|"\\x")', "JSON"),
    ('sa(|"\\ud800")', "JSON"),
    ("sa(|1e999)", "too large"),
    (f"sa*|{'9' * 5000}", "too large"),
    ("[[sa]*|100000]*1000000", "at most 4096"),
    ("[sa*4000]*|2", "this makes 8000"),
    ("sa:128|:3", "`*`"),
    ("[sa,\n mlstm|;]", "unexpected `;`"),
    ("[sa,\n mlstm|", "1:1 is not closed"),
]


@pytest.mark.parametrize(("marked", "said"), MISTAKES)
def test_errors_point_at_the_place_and_say_what_was_expected(marked: str, said: str) -> None:
    before, _, after = marked.partition("|")
    error = mistake(before + after)
    message, _, drawn = str(error).partition("\n")
    last = before.rpartition("\n")[2]
    where = (before.count("\n") + 1, len(last) + 1)
    assert (error.line, error.column) == where
    assert message.startswith(f"pattern:{where[0]}:{where[1]}: ") and said in message
    assert drawn.split("\n")[1].index("^") == 2 + len(last)


def test_carets_stand_under_wide_and_tabbed_and_distant_text() -> None:
    for text, place in (("日本@", 4), ("\tsa@", 3), (f"[{'sa, ' * 999}@", None)):
        drawn, caret = str(mistake(text)).split("\n")[1:]
        assert place is None or caret.index("^") == 2 + place
        assert "@" in drawn and len(drawn) <= 102


def test_a_source_says_where_in_a_file_the_text_stands() -> None:
    raw = ("model: 1; pattern: [sa,   # first", "           mlstm ;]")
    source = PatternSource("r.yaml", (SourceLine(7, 20, raw[0]), SourceLine(9, 12, raw[1])))
    error = mistake("[sa,\nmlstm ;]", source)
    assert (error.file, error.line, error.column) == ("r.yaml", 9, 18)
    assert str(error).split("\n")[0].startswith("r.yaml:9:18: unexpected `;`")
    assert str(error).split("\n")[1:] == ["  " + raw[1], "  " + " " * 17 + "^"]


def test_error_at_offers_the_nearest_name() -> None:
    error = error_at(None, "[mlsm]", (1, 5), "unknown block `mlsm`", "mlstm")
    assert str(error) == "pattern:1:2: unknown block `mlsm`; did you mean `mlstm`?\n  [mlsm]\n   ^^^^"


def test_the_bounds_hold_and_are_reached() -> None:
    assert len(parse_pattern(f"sa*{MAX_ENTRIES}")) == MAX_ENTRIES
    assert parse_pattern("[" * MAX_LEVELS + "sa" + "]" * MAX_LEVELS) == (SA,)
    assert len(parse_pattern("[" + '[sa("[[")],' * 100 + "]")) == 100
    assert parse_pattern("sa" + " " * (MAX_PATTERN_BYTES - 2)) == (SA,)
    for text, said in (
        (f"[sa*{MAX_ENTRIES}, sa]", "4097"),
        ("[" * (MAX_LEVELS + 1) + "sa" + "]" * (MAX_LEVELS + 1), "64 levels"),
        ("sa" + " " * (MAX_PATTERN_BYTES - 1), "64 KiB"),
        ("é" * (MAX_PATTERN_BYTES // 2 + 1), "64 KiB"),
        ("[" * 1_000_000, "64 KiB"),
        ("[" * 60_000, "pattern:1:65: brackets nest at most 64 levels"),
        ("[" + "sa*4096," * 8000 + "]", "at most 4096"),
    ):
        assert said in str(mistake(text))


TOKENS = [
    "[",
    "]",
    "(",
    ")",
    ",",
    ":",
    "*",
    "|",
    "=",
    "sa",
    "mlstm",
    "swa",
    "stoch",
    "128",
    ".5",
    "2",
    '"x"',
    " ",
    "\n",
    "null",
]
GOOD = ["[swa:stoch(128,2048,p=.5), mlstm]*12", "[[mlstm]*7, sa(kv_heads=4)]*3", "[swa:schedule(0=128, .5=512), mlstm]"]


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(TOKENS), max_size=30).map("".join) | st.text(max_size=30))
def test_any_text_is_a_pattern_or_an_error_that_points(text: str) -> None:
    _read_or_point(text)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(st.sampled_from(GOOD), st.integers(0, 40), st.integers(0, 4), st.sampled_from(TOKENS) | st.characters())
def test_a_damaged_pattern_is_a_pattern_or_an_error_that_points(good: str, at: int, cut: int, put: str) -> None:
    _read_or_point(good[:at] + put + good[at + cut :])


def _read_or_point(text: str) -> None:
    try:
        calls = parse_pattern(text)
    except PatternError as error:
        lines = text.split("\n")
        assert 1 <= error.line <= len(lines) and 1 <= error.column <= len(lines[error.line - 1]) + 1
        assert str(error).count("\n") == 2 and "^" in str(error)
        str(error).encode()
    else:
        assert 1 <= len(calls) <= MAX_ENTRIES


def test_a_syntax_error_waits_for_no_heavy_import() -> None:
    code = """
import sys
from hybridkit.language.parser import parse_pattern
try: parse_pattern("[sa, mlstm")
except ValueError as error: print(error)
assert not {"torch", "pydantic", "networkx"} & set(sys.modules), sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "1:1 is not closed" in done.stdout


def test_branches_stand_side_by_side_in_one_entry() -> None:
    both = Call("sa", beside=(MLSTM,))
    assert parse_pattern("sa | mlstm") == parse_pattern("[sa|mlstm,]") == (both,)
    assert parse_pattern("[sa | mlstm, sa]*2") == (both, SA) * 2
    assert parse_pattern("[[sa | mlstm]*2, mlstm]") == (both, both, MLSTM)
    assert both.branches == (SA, MLSTM) and SA.branches == (SA,)
    text = "[swa(heads=2):8 | mlstm]"
    spans = [branch.span.name for branch in parse_pattern(text)[0].branches]
    assert [text[begin:end] for begin, end in spans] == ["swa", "mlstm"]


@pytest.mark.parametrize(
    ("marked", "said"),
    [
        ("sa | ^mlstm*2", "a repeat of branches stands behind brackets: [sa | mlstm]*2"),
        ("^sa*2 | mlstm", "a branch is one call"),
        ("[sa, mlstm | [^sa]]", "a branch is one call"),
        ("[sa |^", "`[` at 1:1 is not closed"),
        ("^| sa", "the name of a block"),
        ("sa |^| mlstm", "the name of a block"),
        ("[sa |^]", "the name of a block"),
        ("^(sa | mlstm)", "a group stands in square brackets"),
        ("sa | mlstm^, sa", "put the list in brackets"),
        ("sa(1 ^| 2)", "`,` or `)`"),
        ("[sa | ^sa]*4096", "this makes 8192"),
    ],
)
def test_errors_in_branches_point_at_the_place(marked: str, said: str) -> None:
    before, _, after = marked.partition("^")
    error = mistake(before + after)
    assert said in str(error)
    assert error.column == len(before) + 1 or said.startswith("this makes")
