"""The YAML reader: what it reads, what it refuses and where it says so, and patterns among YAML."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridkit.language.pattern_source import PatternSource
from hybridkit.recipe.yaml_reader import MAX_YAML_BYTES, Document, ReadError, read_yaml_file, read_yaml_text, scalar

PATTERN = "[swa:stoch(128,2048,p=.5), mlstm]*12"

REFUSED = {  # text: where (line, column), and a word of the reason
    "a: &x 1": (1, 4, "anchor"),
    "a: *x": (1, 4, "alias"),
    "a: *.txt": (1, 4, "alias"),
    "a: !!python/object/apply:os.system [ls]": (1, 4, "tag"),
    "a: ! b": (1, 4, "tag"),
    "a: 1\nb:\n  c: 1\n  c: 2": (4, 3, "twice"),
    "a: 1\n'a': 2": (2, 1, "twice"),
    "a: 1\n---\nb: 2": (2, 1, "second document"),
    "a: 1\n...\n---\nb: 2": (3, 1, "second document"),
    "a:\n\tb: 1": (2, 1, "tab"),
    "a:\t1": (1, 3, "tab"),
    "pattern: [x,\n\ty]": (2, 1, "tab"),
    "[a]: b": (1, 1, "key"),
    "x: 1\ndata: {source: recall(pairs=6, noise=.5)}": (2, 16, "quote the whole call"),
    "a: [1,\n 2": (1, 4, "flow sequence"),
    "a: 'x\n": (1, 4, "quoted"),
    "a: b: c": (1, 5, "mapping"),
    "a:\n  pattern: [x]*2": (2, 15, "alias"),  # no pattern's key: plain YAML, which reads an alias here
    "x: {pattern: [a, (b": (1, 14, "never close"),
    "a: \x01": (1, 4, "U+0001"),
    "a: \u2028": (1, 4, "U+2028"),
    'a: "\\ud800"': (1, 4, "no character"),
    'a: "\\0"': (1, 4, "no character"),
    'a: "\\UFFFFFFFF"': (1, 1, "escape"),
    "a: " + "[" * 10**6: (1, 68, "64 levels"),
    "[" * 10**6: (1, 65, "64 levels"),
    "- " * 10**5: (1, 131, "64 levels"),
    "a: [" + "1, " * 10**5: (1, 12290, "4096 values"),
}


def is_pattern(keys: tuple[str, ...]) -> bool:
    return (
        keys == ("pattern",) or keys[-1] == "of" or keys == ("x", "pattern") or (keys[0] == "space" and len(keys) == 2)
    )


def read(text: str) -> Document:
    return read_yaml_text(text, "f.yaml", is_pattern)


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text[:30]))
def test_what_is_refused_is_pointed_at(text: str) -> None:
    line, column, reason = REFUSED[text]
    with pytest.raises(ReadError, match=f"^f.yaml:{line}:{column}: .*{reason.replace('+', '.')}") as caught:
        read(text)
    assert caught.value.place == ("f.yaml", line, column)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("3e-4", 3e-4), ("1e3", 1000.0), (".5", 0.5), ("-.5", -0.5), ("1.", 1.0), ("010", 10), ("+7", 7), ("", None)]
    + [("~", None), ("null", None), ("true", True), ("False", False), ("9" * 18, 10**18 - 1)]
    + [
        (word, word)
        for word in ("1:30", "yes", "off", "0x10", "0o7", "1_000", "2026-01-01", "1e999", ".inf", "1k", "=")
    ],
)
def test_words_mean_what_they_mean_in_yaml_1_2(text: str, value: object) -> None:
    assert scalar(text) == value and type(scalar(text)) is type(value)
    assert read(f"a: {text}").data == {"a": value}
    assert read(f"a: '{text}'").data == {"a": text}


@pytest.mark.parametrize(
    "text",
    [
        f"pattern: {PATTERN}\nlr: 3e-4",
        f"pattern: {PATTERN} # a comment, with a , and a ]\n# another\nlr: 3e-4",
        f"lr: 3e-4\npattern:    {PATTERN}",
        f"pattern: '{PATTERN}'\nlr: 3e-4",
        f'lr: 3e-4\n"pattern": "{PATTERN}"',
        f"pattern:\n  {PATTERN}\nlr: 3e-4",
        f"# pattern: [x]\n---\npattern: # here it comes\n\n   {PATTERN}\n\nlr: 3e-4\n...\n",
        f"{{pattern: {PATTERN}, lr: 3e-4}}",
        f"lr: 3e-4\r\npattern: {PATTERN}\r\n",
        f"pattern: |\n  {PATTERN}\nlr: 3e-4",
        f"pattern: >-  # folded\n   {PATTERN}\nlr: 3e-4",
    ],
)
def test_a_pattern_reads_the_same_in_every_form(text: str) -> None:
    document = read(text)
    assert document.data == {"pattern": PATTERN, "lr": 3e-4}
    points_at(document.sources[("pattern",)], PATTERN, text.replace("\r\n", "\n"))


@pytest.mark.parametrize(
    "form", ["pattern: {0}\n  {1}", "pattern: '{0}\n  {1}'", "pattern: |\n  {0}\n\n   {1}", "{{pattern: {0}\n{1}}}"]
)
def test_a_pattern_of_several_lines(form: str) -> None:
    lines = ("[swa:stoch(128,2048,", "p=.5), mlstm]*12")
    text = form.format(*lines)
    document = read(text)
    assert document.data == {"pattern": "\n".join(lines)}
    points_at(document.sources[("pattern",)], "\n".join(lines), text)


def points_at(source: PatternSource, pattern: str, text: str) -> None:
    """Every character of the pattern is where the source says it is."""
    for offset, character in enumerate(pattern):
        line, column = source.locate(pattern, offset)
        assert line.raw == text.split("\n")[line.number - 1]
        assert character == "\n" or line.raw[column - 1] == character


def test_a_pattern_with_escapes_points_at_its_line() -> None:
    document = read('\npattern: "[a,\\n b]"')
    assert document.data == {"pattern": "[a,\n b]"}
    line, column = document.sources[("pattern",)].locate("[a,\n b]", 5)
    assert (line.number, line.raw, column) == (2, " b]", 2)


def test_a_pattern_ends_where_the_indentation_does() -> None:
    text = f"x:\n  pattern: {PATTERN[:9]}\n   {PATTERN[9:]}\n  # a comment\n  y: 1\nz: 2"
    assert read(text).data == {"x": {"pattern": f"{PATTERN[:9]}\n{PATTERN[9:]}", "y": 1}, "z": 2}


def test_the_word_alone_makes_no_pattern() -> None:
    text = (
        f"a: |\n  pattern: {PATTERN}\nb: '\n  pattern: {PATTERN}'\nc: 1 # pattern: [x]*3\nd: {{e: pattern}}\npattern: y"
    )
    document = read(text)
    assert document.data["pattern"] == "y" and list(document.sources) == [("pattern",)]
    assert document.data["a"] == f"pattern: {PATTERN}\n" and document.data["b"].strip() == f"pattern: {PATTERN}"


def test_a_search_space_holds_patterns_among_other_values() -> None:
    text = (
        "layers: {length: 8, of: [swa:16, swa:stoch(16,64), mlstm], symmetric: no}\n"
        "space:\n  stack: [swa:{w}, mlstm]*{n}\n  w: {choice: [16, 64]}\n  n:\n    - 1\n    - 2\n  none:\n"
        "more:\n- of: [a]*2\n- {of: b*2, c: 1}"
    )
    document = read(text)
    assert document.data == {
        "layers": {"length": 8, "of": "[swa:16, swa:stoch(16,64), mlstm]", "symmetric": "no"},
        "space": {"stack": "[swa:{w}, mlstm]*{n}", "w": {"choice": [16, 64]}, "n": [1, 2], "none": None},
        "more": [{"of": "[a]*2"}, {"of": "b*2", "c": 1}],
    }
    paths = {("layers", "of"), ("space", "stack"), ("more", 0, "of"), ("more", 1, "of")}
    assert set(document.sources) == paths


def test_places_of_keys_and_values() -> None:
    document = read("a: 1\nb:\n  - x\n  - {c: 2}\n")
    assert document.keys[("b", 1, "c")][1:] == (4, 6) and document.values[("b", 1, "c")][1:] == (4, 9)
    assert document.where(("b", 1, "c", "deeper")) == document.values[("b", 1, "c")]
    assert str(document.values[("b", 0)]) == "f.yaml:3:5"


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "nul.yaml").write_bytes(b"a: \0")
    (tmp_path / "binary.yaml").write_bytes(bytes(range(128, 256)))
    (tmp_path / "large.yaml").write_bytes(b"#" * (MAX_YAML_BYTES + 1))
    (tmp_path / "list.yaml").write_text("- a")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").touch()
    reasons = {"nul": "binary", "binary": "binary", "large": "1 MiB", "list": ":1:1: the top level", "nil": "nul.yaml"}
    for name, reason in reasons.items():
        with pytest.raises(ReadError, match=reason):
            read_yaml_file(tmp_path / f"{name}.yaml", is_pattern)
    with pytest.raises(ReadError, match=r"did you mean .*run/recipe\.yaml"):
        read_yaml_file(tmp_path / "run", is_pattern)
    with pytest.raises(ReadError, match="cannot be read"):
        read_yaml_file(tmp_path / ("n" * 5000), is_pattern)


def test_a_file_may_begin_with_a_byte_order_mark_and_be_empty(tmp_path: Path) -> None:
    (tmp_path / "mark.yaml").write_bytes(b"\xef\xbb\xbfa: 1")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml_file(tmp_path / "mark.yaml", is_pattern).data == {"a": 1}
    assert read_yaml_file(tmp_path / "empty.yaml", is_pattern).data == {}


letters = st.characters(min_codepoint=32, max_codepoint=0x2000, exclude_categories=["Cc", "Cs"])
words = st.text(letters, max_size=20)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words
data = st.recursive(plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4))


@pytest.mark.slow
@given(data)
@settings(deadline=None)
def test_json_is_read_as_json(value: object) -> None:
    assert read_yaml_text(json.dumps(value, ensure_ascii=False), "f.yaml").data == value


pieces = st.sampled_from(
    [*"\n\n\n  :-#[]{}()|>&*!%@`'\"\\,?", "\r", "\t", ": ", "- ", " #", "pattern: ", "of: ", "a", "1"]
)
garbage = st.lists(pieces, max_size=60).map("".join) | st.text(max_size=60)


@pytest.mark.slow
@given(garbage)
@settings(deadline=None, max_examples=400)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        document = read(text)
    except ReadError:
        return
    for path, source in document.sources.items():
        value = document.data
        for key in path:
            value = value[key]
        points = [source.locate(value, offset) for offset in range(len(value) + 1)]
        assert all(column >= 1 for _, column in points)
