"""Pages made from fixed data are valid, ask nothing of the network, and say and mark what they should."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from page_checks import check_page
from pictured import TRIED, curves, evaluation, study

from hybridkit.report.eval_page import page
from hybridkit.report.heatmap import eval_pictures
from hybridkit.report.run_page import run_page
from hybridkit.report.search_pages import _html, ranking
from hybridkit.report.search_plots import study_figures


@pytest.mark.slow
def test_pages_of_evaluations_and_studies_are_valid_and_whole() -> None:
    result, found = evaluation(), study()
    check_page(text := page([result, result], [list(eval_pictures(result))] * 2))
    assert text.count("<figure") == 10 and "Earlier, 1" in text
    check_page(_html(found, [ranking(found)], list(study_figures(found, TRIED))))
    values = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', text)[3])
    assert [len(line["points"]) for line in values] == [12] * 3
    assert {line["x"] for line in values} == {"tokens before (middle of a bin)"}
    assert all(0 <= share <= 1 for line in values for point in line["points"] for share in point[:2])


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    for place, (curve, pattern) in enumerate(
        zip(curves(), ["[swa:stoch(8,16), mlstm]*2", "sa*2", "sa*2"], strict=True)
    ):
        folder = tmp_path / f"run-{place}"
        folder.mkdir()
        (folder / "recipe.yaml").write_text(
            f"pattern: {pattern}\nmodel: {{width: 16, heads: 2}}\ndata: {{sequence: 64}}\n"
            f"train: {{lr: {place + 1}e-3}}\n"
        )
        lines: list[dict[str, Any]] = [*curve.steps, *curve.validations, {"step": 9, "probe.recall.8.own": 0.5}]
        lines = [{**line, "val_bits_per_byte": 1.0} if "val_loss" in line else line for line in lines]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [tmp_path / f"run-{place}" for place in range(3)]


@pytest.mark.slow
def test_the_page_of_runs_says_what_they_are_and_marks_what_differs(runs: list[Path]) -> None:
    text = run_page(runs, [("run-0", "<b>Once", " upon\n</script> a time")])
    check_page(text)
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles == ["Overview", "Stack", "Costs", "Training", "Probes", "Generations", "Recipes", "Files"]
    marked = re.findall(r"<tr class=front><td[^>]*>([^<]*) ≠</td>", text)
    assert {"pattern", "learning rate", "train.lr"} <= set(marked) and "tokens" not in marked
    assert text.count('<figure id="stack-') == 2, "equal stacks are drawn once"
    assert "<b>&lt;b&gt;Once</b> upon\n&lt;/script&gt; a time</pre>" in text


@pytest.mark.slow
def test_runs_of_different_lengths_are_compared_at_one(runs: list[Path]) -> None:
    recipe = runs[1] / "recipe.yaml"
    recipe.write_text(recipe.read_text("utf-8").replace("sequence: 64", "sequence: 128"), "utf-8")
    text = run_page(runs)
    states = re.findall(r"<tr[^>]*><td>state at (\w+) tokens[^<]*</td>(.*?)</tr>", text)
    assert [length for length, _ in states] == ["128"]
    _, longer, same = re.findall(r"<td[^>]*>([^<]*)</td>", states[0][1])
    assert longer == same, "equal stacks, equal states"
    assert "<td class=number>64</td>" not in text
