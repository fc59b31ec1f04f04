"""Curves of evaluations: none is hidden by another, each has a name, and a text has one name."""

from typing import Any

from matplotlib.figure import Figure

from hybridkit.evaluation.request import CellScore, EvalResult
from hybridkit.report.eval_curves import draw_positions, draw_recall
from hybridkit.report.figure import told_apart
from hybridkit.report.layered import plot_layered

SETTINGS = {"samples": 4, "haystack": None, "interval": "95 %"}


def test_each_of_equal_curves_is_seen_around_those_over_it() -> None:
    axes = Figure().add_subplot()
    up, flat = [(1.0, 0.0), (2.0, 50.0)], [(1.0, 0.5), (2.0, 0.5)]
    lines = plot_layered(axes, {"a": up, "b": up, "c": up, "d": flat}, near=1.0)
    drawn: dict[str, list[float]] = {}
    for line in axes.get_lines():
        if len(line.get_xdata()) == 2:  # type: ignore[arg-type]  # a list
            drawn.setdefault(str(line.get_color()), []).append(line.get_linewidth())
    a, b, c, d = (max(drawn[line.get_color()]) for line in lines)
    assert a > b + 1 > c + 2 and c == d, "the last of three equal lines is as wide as one alone"
    points = [line for line in axes.get_lines() if len(line.get_xdata()) == 1]  # type: ignore[arg-type]
    at_first = [line.get_markersize() for line in points if line.get_xdata()[0] == 1.0]  # type: ignore[index]
    assert len(at_first) == 3 and at_first == sorted(at_first, reverse=True), "all four points stand near 0 at 1"


def cells(*of: tuple[str, str, int | None]) -> list[CellScore]:
    return [CellScore(run, task, length, window, 4, 50.0, 40.0, 60.0) for run, task, window in of for length in (0, 8)]


def names(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_a_curve_alone_is_named_in_the_title_and_several_in_the_legend() -> None:
    alone = draw_recall(cells(("runs/a", "recall_far", 64)))
    assert not alone.legends and alone.axes[0].get_title() == "Far recall: runs/a, window 64"
    assert "0" in [label.get_text() for label in alone.axes[0].get_xticklabels()]
    several = cells(("a", "recall_far", 8), ("b", "recall_far", 8), ("a", "recall_near", 8))
    both = draw_recall(several)
    assert [axes.get_title() for axes in both.axes] == ["Far recall: window 8", "Near recall: window 8"]
    assert sorted(names(both)) == ["a", "b"]


def test_names_are_cut_and_titles_are_not() -> None:
    findings = EvalResult({}, {}, by_position=bins("runs/swax", same_text=True))
    assert draw_positions(findings).axes[0].get_title() == "Loss by position: runs/swax, own window, held-out text"
    name = "a-very-long-name-of-a-run" * 4
    titles = [axes.get_title() for axes in draw_recall(cells((name, "recall_far", 8), (name, "recall_near", 8))).axes]
    assert [title.partition(":\n")[0] for title in titles] == ["Far recall", "Near recall"]
    assert all("…" in title and title.endswith(", window 8") for title in titles)


def bins(run: str, **text: Any) -> list[dict[str, Any]]:
    sizes = {"window": None, "tokens": 999, "loss": 1.0, "gain": None, **text}
    return [{"run": run, "first": 2**k, "last": 2 ** (k + 1) - 1, **sizes} for k in range(3)]


def test_a_text_has_one_name_whatever_it_is_for_each_run() -> None:
    same = [*bins("teacher", text="x", same_text=False), *bins("student", text="x", same_text=True)]
    figure = draw_positions(EvalResult(SETTINGS, {}, by_position=same))
    assert sorted(names(figure)) == ["student", "teacher"]
    assert figure.axes[0].get_title() == "Loss by position: own window, held-out text"
    other = [*bins("student", text="x", same_text=True), *bins("student", text="y", same_text=False, source="y.txt")]
    assert names(draw_positions(EvalResult(SETTINGS, {}, by_position=other))) == ["y.txt text", "held-out text"]


def test_what_differs_is_told_apart() -> None:
    assert told_apart([("a", "x", ""), ("b", "x", "")]) == ("x", ["a", "b"])
    assert told_apart([("a", "x")]) == ("a, x", [""])
