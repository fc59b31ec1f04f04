"""Which answers stand together, which replace each other, and what a file that holds something else comes to."""

import json
from pathlib import Path
from typing import Any

import pytest

from hybridkit.evaluation.history import history_to_json, read_history, with_new
from hybridkit.evaluation.request import CellScore, DepthScore, EvalResult
from hybridkit.report.eval_page import write_report

SETTINGS = {"samples": 3, "seed": 42, "scoring": "ruler", "haystack": None, "harness": None, "interval": "95 %"}


def of(run: str, origin: str, score: float | None = None, window: int | None = None, **changes: Any) -> EvalResult:
    """An evaluation of one run: a needle score, or perplexity where there is none."""
    found = EvalResult({**SETTINGS, **changes}, {run: ""}, {run: {"fingerprint": origin, "step": 1}})
    if score is None:
        row = {"window": window, "loss": 1.0, "tokens": 3, "perplexity": 2.7, "bits_per_byte": 1.4, "text": "t"}
        found.perplexity[run] = [{**row, "tokens_per_second": 1.0, "same_text": True}]
    else:
        found.cells.append(CellScore(run, "niah", 1024, window, 3, score, score, score))
        found.depths.append(DepthScore(run, "niah", 1024, window, 50, 3, 1))
    return found


def scores(history: list[EvalResult]) -> list[list[float]]:
    return [[cell.score for cell in found.cells] for found in history]


def test_the_newest_stands_first_and_takes_the_place_of_older_answers() -> None:
    history = with_new(of("a", "x", 10), [])
    history = with_new(of("a", "x", 20, window=8), history)
    history = with_new(of("a", "x"), history)
    assert scores(history) == [[], [20], [10]] and history[0].perplexity["a"]
    history = with_new(of("a", "x", 30), history)
    assert scores(history) == [[30], [], [20]] and len(history[0].depths) == 1
    history = with_new(of("a", "x"), history)
    assert scores(history) == [[], [30], [20]] and [bool(one.perplexity) for one in history] == [True, False, False]


def test_an_answer_of_another_origin_or_setting_stays() -> None:
    history = with_new(of("a", "x", 10), [])
    history = with_new(of("a", "y", 20), history)
    history = with_new(of("a", "y", 30, seed=1), history)
    assert scores(history) == [[30], [20], [10]]
    history = with_new(of("a", "x", 40), history)
    assert scores(history) == [[40], [30], [20]]
    history = with_new(of("a", "x", 50, precision="bf16"), history)
    assert scores(history) == [[50], [40], [30], [20]]
    history = with_new(of("a", "x"), [of("a", "x", precision="bf16")])
    assert [bool(one.perplexity) for one in history] == [True, True]


def test_of_several_runs_only_the_one_asked_again_loses_its_answer() -> None:
    pair, other = of("a", "x", 11), of("b", "b", 6)
    pair.cells += other.cells
    pair.depths += other.depths
    pair.trained |= other.trained
    pair.origins |= other.origins
    history = with_new(pair, [of("b", "b", 5), of("a", "x", 10)])
    assert scores(history) == [[11, 6]]
    assert scores(with_new(of("a", "y", 12), history)) == [[12], [11, 6]]
    history = with_new(of("a", "x", 13), history)
    assert scores(history) == [[13], [6]] and [depth.run for depth in history[1].depths] == ["b"]


def test_a_run_that_moved_is_known_by_its_fingerprint() -> None:
    history = with_new(of("new/place", "x", 20), [of("old", "x", 10), of("old", "x", 9, window=8)])
    assert [[(cell.run, cell.score) for cell in one.cells] for one in history] == [[("new/place", 20)], [("old", 9)]]


def test_harness_figures_are_replaced_by_task_and_window() -> None:
    def asked(window: str, *tasks: str) -> EvalResult:
        found = of("a", "x", 1)
        found.cells, found.depths, found.tasks = [], [], {f"a{window}": {task: {"acc": 0.5} for task in tasks}}
        return found

    history = with_new(asked(", window 8", "one"), [asked("", "one", "two"), asked(", window 8", "one")])
    assert [one.tasks for one in history] == [asked(", window 8", "one").tasks, asked("", "one", "two").tasks]
    history = with_new(asked("", "two"), history)
    assert [list(one.tasks) for one in history] == [["a"], ["a, window 8"], ["a"]]
    assert list(history[2].tasks["a"]) == ["one"]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_report(of("a", "x", 10), tmp_path)
    write_report(of("a", "y"), tmp_path)
    history = read_history(tmp_path)
    assert history_to_json(history) == json.loads((tmp_path / "results.json").read_text())
    assert scores(history) == [[], [10]]
    page = (tmp_path / "report.html").read_text()
    assert page.index("Held-out text") < page.index("Earlier") < page.index("Needles")


def test_a_report_of_the_first_round_stays_as_an_earlier_one(tmp_path: Path) -> None:
    old = of("a", "x", 10).to_json()
    for key in ("trained", "origins", "notes"):
        del old[key]
    (tmp_path / "results.json").write_text(json.dumps(old))
    write_report(of("a", "x", 20), tmp_path)
    assert scores(read_history(tmp_path)) == [[20], [10]]


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"cells": 3}', '{"earlier": [3]}', "[" * 10**5, '{"cells": [{"run": "a"}], "settings": {}}'],
)
def test_what_is_no_report_is_put_aside(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.json").write_text(text)
    write_report(of("a", "x", 20), tmp_path)
    assert scores(read_history(tmp_path)) == [[20]]
    assert (tmp_path / "unreadable-results.json").read_text() == text and "cannot be read" in capsys.readouterr().err


def test_harness_figures_of_another_seed_stay_and_other_figures_do_not_depend_on_it() -> None:
    def asked(seed: int) -> EvalResult:
        found = of("a", "x", 1, harness={"limit": None, "include": None, "seed": seed, "lengths": []})
        found.tasks = {"a": {"arc": {"acc": 0.5}}}
        return found

    history = with_new(asked(43), [asked(42)])
    assert [bool(one.tasks) for one in history] == [True, True] and scores(history) == [[1], []]
    assert len(with_new(asked(42), [asked(42)])) == 1


def test_no_file_that_was_put_aside_is_replaced(tmp_path: Path) -> None:
    for text in ("{first", "{second", "{third"):
        (tmp_path / "results.json").write_text(text)
        write_report(of("a", "x", 10), tmp_path)
    names = {"unreadable-results.json": "{first", "unreadable-2-results.json": "{second"}
    assert {name: (tmp_path / name).read_text() for name in names} == names
    assert (tmp_path / "unreadable-3-results.json").read_text() == "{third"
