"""Tables in a terminal: nothing is cut, whatever the width."""

from io import StringIO

import pytest
from rich.console import Console as Rich

from hybridkit.report.console import Console, Table
from hybridkit.report.page import TextTable, is_number_cell, print_table
from hybridkit.report.search import format_column

SCORES = [[f"{n}{k}.5 [{n}{k}.1, {n}{k}.9]" for k in range(1, 8)] for n in (1, 2)]
ROWS = [["recall_near", "runs/a", "4", *SCORES[0]], ["recall_far", "runs/a", "own", *SCORES[1]]]
TABLE = TextTable("Recall", ["task", "run", "window", *(str(2**k) for k in range(7))], ROWS, heads=3)


class Narrow(Console):
    def __init__(self, width: int) -> None:
        self.said = StringIO()
        Rich.__init__(self, file=self.said, width=width, markup=False, emoji=False, highlight=False)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_table_that_is_too_wide_is_parted_with_its_heads_repeated(width: int) -> None:
    console = Narrow(width)
    print_table(console, TABLE)
    lines = console.said.getvalue().split("\n")
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    assert all(cell in text for row in SCORES for cell in row), "every score stands whole in a line"
    parts = sum(line.startswith("task ") for line in lines)
    assert parts == sum(line.startswith("recall_far ") for line in lines) and (parts == 1) == (width == 200)
    assert "(run runs/a)" in lines[0] or width == 200, "what all rows share is said once"


def test_numbers_fold_rather_than_being_cut() -> None:
    table = Table("a", *"bcdefg")
    table.add_row("x", *["1,234,567"] * 6)
    console = Narrow(40)
    console.print(table)
    assert console.said.getvalue().replace(" ", "").replace("\n", "").count("7") == 6


def test_figures_of_a_column_have_equally_many_decimals() -> None:
    assert format_column([99.632, 25.0], [None, None]) == ["99.632", "25.000"]
    assert format_column([1e-5, 25.0], [None, None]) == ["1e-05", "25"], "nothing of the first is lost"
    assert format_column([2048.0], [None], "state_bytes") == ["2.000 KiB"]


@pytest.mark.parametrize("cell", ["13.0 [12.0, 14.0]*", "100 [39.8, 100]*", "0.0*", "3,279x", "-"])
def test_a_score_that_is_marked_is_a_number(cell: str) -> None:
    assert is_number_cell(cell)
