"""Tables and maps of an evaluation: windows beside each other, and what a stack cannot see."""

from typing import Any

from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb

from hybridkit.evaluation.request import CellScore, DepthScore, EvalResult
from hybridkit.report.eval_parts import ROOM, fitting, merged_results
from hybridkit.report.eval_tables import tables
from hybridkit.report.heatmap import eval_pictures
from hybridkit.report.plot_style import FAINT, GRID, INK, PAPER, UNKNOWN, contrast

SETTINGS = {"samples": 4, "haystack": None, "interval": "95 %"}


def rows(window: int, targets: int) -> list[dict[str, Any]]:
    place = {"run": "a", "window": window, "context": 4, "text": "x", "same_text": True}
    return [
        place | {"first": 2**k, "last": 2**k, "tokens": targets, "loss": window + k / 10, "gain": None}
        for k in range(2)
    ]


def test_windows_stand_beside_each_other_where_their_targets_are_the_same() -> None:
    found = EvalResult(SETTINGS, {"a": ""}, by_position=[*rows(8, 5), *rows(16, 5), *rows(32, 6)])
    both, alone = tables(found)
    assert both.columns == ["tokens before", "targets", "nats, window 8", "nats, window 16"]
    assert both.rows == [["1", "5", "8.0000", "16.0000"], ["2", "5", "8.1000", "16.1000"]]
    assert alone.title == "Loss by position: a, window 32, held-out text; nats a token"
    assert alone.rows[0] == ["1", "6", "32.0000"]


def test_a_gain_of_nothing_has_no_sign() -> None:
    bins = [row | {"gain": -1e-6} for row in rows(8, 5)]
    (table,) = tables(EvalResult(SETTINGS, {"a": ""}, by_position=bins))
    assert [row[3] for row in table.rows] == ["0.0000", "0.0000"]


def test_what_a_stack_cannot_see_is_marked_and_hatched() -> None:
    cells = [CellScore("a", "niah", 64, 8, 4, 25.0, 1.0, 80.0, unseen) for unseen in (0.5,)]
    depths = [DepthScore("a", "niah", 64, 8, 0, 2, 0, 2), DepthScore("a", "niah", 64, 8, 90, 2, 1, 0)]
    found = EvalResult(SETTINGS, {"a": "8"}, cells=cells, depths=depths)
    (table,) = tables(found)
    assert table.rows[0][-1] == "25.0 [1.0, 80.0]*"
    ((_, figure),) = eval_pictures(found)
    (hatched,) = [patch for patch in figure.axes[0].patches if patch.get_hatch()]
    assert hatched.get_xy() == (-0.5, -0.5), "length 64, depth 0 to 10"
    assert "hatched" in figure.get_supxlabel()
    cell = colormaps["viridis"](0.0)  # no answer was right
    assert contrast(to_rgb(hatched.get_edgecolor()), cell) >= 4.5, "and no colour that a dark page turns dark"
    assert to_hex(hatched.get_edgecolor()) not in (INK, FAINT, GRID, PAPER, UNKNOWN)


def test_what_was_not_asked_has_a_colour_of_the_page() -> None:
    depths = [DepthScore("a", "niah", 64, 8, depth, 2, 1, 0) for depth in (0, 90)]
    ((_, figure),) = eval_pictures(EvalResult(SETTINGS, {"a": "8"}, depths=depths))
    axes = figure.axes[0]
    image = axes.images[0]
    assert to_hex(axes.get_facecolor()) == UNKNOWN and image.get_cmap()(image.get_array())[1, 0, 3] == 0, "seen through"


def test_a_table_that_a_page_has_no_room_for_is_turned_with_every_score_in_it() -> None:
    names = [f"/a/long/way/to/the/folder/of/studies/effect/trials/000{n}/seed-0" for n in range(3)]
    cells = [CellScore(n, "recall_far", 2**k, 64, 9, 90 + k / 10, 80.0, 99.0) for n in names for k in range(10)]
    found = EvalResult(SETTINGS, dict.fromkeys(names, "64"), cells=cells)
    (table,) = tables(found)
    turned = fitting(table)
    assert turned.columns == ["distance", *(f"recall_far, 000{n}/seed-0" for n in range(3))]
    assert [row[0] for row in turned.rows] == table.columns[3:] and turned.characters < ROOM < table.characters
    assert [row[2] for row in turned.rows] == table.rows[1][3:], "every score of the second run"
    assert "window 64" in turned.title and "/effect/trials/" in turned.title
    few = tables(EvalResult(SETTINGS, {}, cells=cells[:3] + cells[10:12]))[0]
    assert fitting(few).rows[0][-1] == "90.2 [80.0, 99.0]", "a narrow one is as it is"


def test_runs_keep_their_order_where_their_evaluations_are_joined() -> None:
    """So that a run has the same colour in all pictures of a page."""
    results = [EvalResult(SETTINGS, {n: ""}, cells=[CellScore(n, "niah", 64, 8, 4, 25.0, 1.0, 80.0)]) for n in "cab"]
    (joined,) = merged_results([*results, results[0]])
    assert [cell.run for cell in joined.cells] == list(joined.trained) == ["c", "a", "b"]
