"""Numbers that were written for people are read back in their order, so that the columns of a page can be sorted."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridkit.report import numbers
from hybridkit.report.markup import html_table

SIZES = st.one_of(st.integers(0, 2000), st.integers(0, 10**13))
WRITERS: dict[str, tuple[Callable[[int], str], bool]] = {
    "counts": (numbers.format_count, False),
    "bytes": (numbers.format_bytes, True),
    "parameters": (numbers.format_parameters, False),
    "weights": (numbers.format_weights, False),
    "durations": (numbers.format_duration, False),
    "ratios": (lambda number: numbers.format_ratio(number, 1000), False),
    "thousands": (lambda number: f"{number:,} [1, 2]", False),
}


@pytest.mark.parametrize("name", WRITERS)
@given(one=SIZES, other=SIZES)
def test_the_order_of_numbers_is_that_of_their_texts(name: str, one: int, other: int) -> None:
    write, is_bytes = WRITERS[name]
    (low, lower), (high, higher) = (
        (number, numbers.read_number(write(number), is_bytes)) for number in sorted((one, other))
    )
    assert lower is not None and higher is not None and lower <= higher
    if write(low) != write(high):
        assert lower < higher


@pytest.mark.parametrize(
    "text", ["-", "", "swa:128", "57f3d50c922e", "2026-11-27 22:10", "runs/a-10", "inf", "[gdn, sa]*2"]
)
def test_other_text_has_no_number(text: str) -> None:
    assert numbers.read_number(text) is None


def test_a_cell_says_the_number_that_its_text_alone_does_not() -> None:
    page = html_table(
        ["parameters", "state", "steps", "run"], [["1.4 B", "512 B", "600", "a"], ["90 M", "1.5 KiB", "-", "b"]]
    )
    assert re.findall(r"<td[^>]*>", page) == [
        '<td data-value="1400000000.0">', '<td data-value="512.0">', "<td>", "<td>",
        '<td data-value="90000000.0">', '<td data-value="1536.0">', "<td>", "<td>",
    ]  # fmt: skip
