"""Canonical printing: it reads back, equal lists print alike, and no form is shorter."""

import itertools
import random
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hybridkit.block import write_value
from hybridkit.language.parser import MAX_ENTRIES, parse_pattern
from hybridkit.language.printer import canonical, period


def flat(pattern: str) -> list[str]:
    """The entries of a pattern of plain names."""
    return [call.name for call in parse_pattern(pattern)]


@pytest.mark.parametrize(
    ("pattern", "printed"),
    [
        ("[sa]", "sa"),
        ("[sa, sa]", "sa*2"),
        ("[[sa]*2]*12", "sa*24"),
        ("[a, b, a, b]", "[a, b]*2"),
        ("[[mlstm, mlstm*6], sa]*3", "[mlstm*7, sa]*3"),
        ("[a, a]", "a*2"),
        ("[[sa, mlstm]*2, ffn, [sa, mlstm]*2, ffn]", "[[sa, mlstm]*2, ffn]*2"),
        ("[sa, [mlstm*7, sa]*100]", "[[sa, mlstm*7]*100, sa]"),
    ],
)
def test_known_forms(pattern: str, printed: str) -> None:
    assert canonical(flat(pattern)) == printed


@cache
def shortest_list(names: tuple[str, ...]) -> str:
    """The shortest form of a list without its brackets, by trying every first element."""
    heads = ((size, shortest_element(names[:size])) for size in range(1, len(names) + 1))
    return min(
        (head + (f", {shortest_list(names[size:])}" if size < len(names) else "") for size, head in heads if head),
        key=len,
    )


@cache
def shortest_element(names: tuple[str, ...]) -> str | None:
    """The shortest entry or repeated group that stands for all the names, by trying every unit."""
    forms = [names[0]] if len(names) == 1 else []
    for size in range(1, len(names) // 2 + 1):
        if names[:size] * (len(names) // size) == names:
            unit = names[0] if size == 1 else f"[{shortest_list(names[:size])}]"
            forms.append(f"{unit}*{len(names) // size}")
    return min(forms, key=len, default=None)


def shortest(names: tuple[str, ...]) -> int:
    return min(len(form) for form in (shortest_element(names), f"[{shortest_list(names)}]") if form)


@pytest.mark.parametrize(("alphabet", "longest"), [(("a", "b"), 10), (("a", "bcdef"), 9), (("mlstm", "x", "sa"), 6)])
def test_no_short_list_has_a_shorter_form(alphabet: tuple[str, ...], longest: int) -> None:
    for size in range(1, longest + 1):
        for names in itertools.product(alphabet, repeat=size):
            assert len(canonical(names)) == shortest(names), names


UNITS = st.lists(st.sampled_from(["a", "b", "longer"]), min_size=1, max_size=4)


def repeated(units: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    """Lists made of repeated stretches, nested: what a random list of names hardly ever is."""
    return st.lists(st.tuples(units, st.integers(1, 4)), min_size=1, max_size=3).map(
        lambda parts: [name for unit, times in parts for name in unit * times]
    )


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.recursive(UNITS, repeated, max_leaves=8))
def test_what_is_printed_reads_back_and_prints_alike(names: list[str]) -> None:
    printed = canonical(names)
    assert flat(printed) == names
    assert len(printed) <= len(f"[{', '.join(names)}]")


@settings(max_examples=40, deadline=None)
@given(repeated(UNITS).filter(lambda names: len(names) <= 24))
def test_no_list_of_repeats_has_a_shorter_form(names: list[str]) -> None:
    assert len(canonical(names)) == shortest(tuple(names))


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 2, 3, 7, 1000]), st.integers(257, MAX_ENTRIES))
@example(0, 1, MAX_ENTRIES)
def test_long_lists_read_back(seed: int, unit: int, size: int) -> None:
    draw = random.Random(seed)
    names = [*([draw.choice("ab") for _ in range(unit)] * size)[: size - 1], "c"]
    printed = canonical(names)
    assert flat(printed) == names
    assert unit > 7 or len(printed) < 60  # a repeat and its two ends, however long


@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=4), st.integers(1, 5))
def test_the_period_repeats_to_the_whole(unit: list[str], times: int) -> None:
    said = unit * times
    size = period(said)
    assert said[:size] * (len(said) // size) == said and size <= len(unit)


@pytest.mark.parametrize(
    ("pattern", "printed"),
    [
        ("[a | b]", "a | b"),
        ("[a | b, a | b]", "[a | b]*2"),
        ("[a | b, c]*3", "[a | b, c]*3"),
        ("[[a | b]*2, a, a | b]", "[[a | b]*2, a, a | b]"),
        ('[a("x | y"), a("x | y")]', 'a("x | y")*2'),
        ("[b | a, a | b]", "[b | a, a | b]"),
    ],
)
def test_branches_are_bracketed_where_they_repeat(pattern: str, printed: str) -> None:
    assert canonical(said(pattern)) == printed
    assert said(printed) == said(pattern)


def said(pattern: str) -> list[str]:
    """The entries of a pattern as texts: names, an argument and branches."""
    return [
        " | ".join(one.name + "".join(f"({write_value(value)})" for _, value in one.arguments) for one in call.branches)
        for call in parse_pattern(pattern)
    ]


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.lists(st.sampled_from(["a", "b", "a | b", "b | a | a"]), min_size=1, max_size=3), repeated, max_leaves=6
    ).filter(lambda entries: len(entries) <= 200)
)
def test_branches_read_back_and_print_alike(entries: list[str]) -> None:
    printed = canonical(entries)
    assert said(printed) == entries
    assert canonical(said(f"[{', '.join(entries)}]")) == printed
    assert len(printed) <= len(f"[{', '.join(entries)}]")
