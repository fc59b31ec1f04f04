"""Pages of a study whose patterns have hostile names: these appear as text only."""

import re
from xml.etree import ElementTree

import pytest
from names import HOSTILE, raw_controls

from hybridkit.report.figure import svg
from hybridkit.report.search import print_results
from hybridkit.report.search_pages import _html, _markdown, ranking
from hybridkit.report.search_plots import study_figures
from hybridkit.search.results import RankedTrial, Results, TrialCurve
from hybridkit.search.trials import Counts, Trial


@pytest.fixture(scope="module")
def found() -> Results:
    trials = [
        Trial(n, "done", {"arm": name, "lr": 10.0**-n}, name, values=[[1.0 + n, 10.0**n % 9e99]])
        for n, name in enumerate(HOSTILE)
    ]
    rows = [RankedTrial(n + 1, trial, trial.means, [None, None], n < 3) for n, trial in enumerate(trials)]
    failed = Trial(99, "failed", {"arm": "|"}, "sa", reason="[/b] \x1b[31m | `x`")
    return Results(
        "_a$b^{$ <b> [x](y)", {"val_loss": "min", "_params": "min"}, rows, [{"arm": 0.5, "_l$r^{": 0.2}] * 2,
        [*trials, failed], Counts(), len(HOSTILE), 1,
    )  # fmt: skip


@pytest.mark.slow
def test_pages_and_pictures_hold_names_as_text(found: Results) -> None:
    curves = [TrialCurve(n, 0, [1, 2, 3], [3.0, 2.0, 1.0]) for n in range(2)]
    drawn = list(study_figures(found, curves))
    assert [name for name, _, _ in drawn] == ["front", "parallel", "importance", "curves"]
    for text in (svg(figure) for _, _, figure in drawn):
        ElementTree.fromstring(text)
        assert raw_controls(text) == ""
    page, table = _html(found, [ranking(found)], drawn), _markdown(found, [ranking(found)], drawn)
    assert raw_controls(page) == raw_controls(table) == ""
    assert "<script>" not in page and "<b>" not in page and "&lt;script&gt;" in page
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1 and len(rows) == len(HOSTILE) + 2
    assert all(re.search(r"`[^`]*<script>[^`]*`", row) for row in rows if "<script>" in row)


def test_the_ranked_table_has_a_row_for_every_trial(found: Results, capsys: pytest.CaptureFixture[str]) -> None:
    print_results(found)
    out = capsys.readouterr().out
    assert raw_controls(out) == "" and len(out.splitlines()) == 1 + 1 + len(HOSTILE) + 1
    assert all(name in out for name in ("a[lr=1e-3]", "a[lr=3e-3]", ":smile:", "[bold red]x[[]", "n" * 200))
    assert "trial 99 failed: [/b] \\x1b[31m" in out
