"""Tables and maps of an evaluation: windows beside each other, and what a stack cannot see."""

from typing import Any

from hybridkit.evaluation.request import CellScore, DepthScore, EvalResult
from hybridkit.report.eval_tables import tables
from hybridkit.report.heatmap import eval_pictures

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
    assert both.columns == ["tokens before", "targets", "nats a token, window 8", "nats a token, window 16"]
    assert both.rows == [["1", "5", "8.0000", "16.0000"], ["2", "5", "8.1000", "16.1000"]]
    assert alone.title == "Loss by position: a, window 32, held-out text" and alone.rows[0] == ["1", "6", "32.0000"]


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
