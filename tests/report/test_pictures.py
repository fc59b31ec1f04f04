"""Every picture and page, drawn from fixed data: what a person who looks at them would miss.

All series are there, no text leaves the frame or lies on other text, text can be read on what is behind it, and a page
asks nothing of the network and is valid.
"""

import json
import math
import random
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text

from hybridkit.cost.summary import cost_requests
from hybridkit.evaluation.request import CellScore, DepthScore, EvalResult
from hybridkit.report.curves import RunCurve, draw_curves
from hybridkit.report.figure import _plain, svg
from hybridkit.report.flops_plot import draw_costs
from hybridkit.report.heatmap import eval_pictures, join_bins
from hybridkit.report.html import page
from hybridkit.report.picture import picture
from hybridkit.report.pictures import stack_picture
from hybridkit.report.plot_style import COLORS, PAPER, contrast, rgb, text_color, thinned
from hybridkit.report.probe_plot import draw_probes
from hybridkit.report.run_page import run_page
from hybridkit.report.search_pages import _html, ranking
from hybridkit.report.search_plots import study_figures
from hybridkit.runs.run import load_recipe
from hybridkit.search.results import RankedTrial, Results, TrialCurve
from hybridkit.search.trials import Counts, Trial, pareto_front, rank

RUNS = ("runs/swax-stochastic", "runs/swax-2048", "runs/a transformer with a rather long name")
DRAW = random.Random(0)


def curves() -> list[RunCurve]:
    made = []
    for place, name in enumerate(RUNS):
        losses = [2 + 3 * math.exp(-step / 20) + 0.1 * place + DRAW.gauss(0, 0.05) for step in range(1, 121)]
        steps = [
            {"step": n, "tokens": 8192 * n, "loss": loss, "seconds": 0.5, "tokens_per_second": 2e4, "window": 8}
            for n, loss in enumerate(losses, start=1)
        ]
        made.append(RunCurve(name, steps, [{"step": n, "val_loss": losses[n - 1]} for n in (40, 80, 120)]))
    return made


def evaluation() -> EvalResult:
    made = EvalResult(
        {"samples": 50, "haystack": None, "interval": "95 %"},
        dict(zip(RUNS, ("stoch(128,2048)", "2048", ""), strict=True)),
    )
    for place, run in enumerate(RUNS):
        for length in (4096, 16384, 131072):
            for window in (128, 2048):
                score = 100.0 * DRAW.random()
                made.cells.append(CellScore(run, "niah_single_1", length, window, 50, score, score / 2, 100.0))
                asked = [depth for depth in range(0, 100, 10) if DRAW.random() < 0.8]
                made.depths += [
                    DepthScore(run, "niah_single_1", length, window, d, 5, DRAW.randint(0, 5)) for d in asked
                ]
        made.cells += [CellScore(run, "recall_far", gap, None, 50, 90.0 - gap / 9, 40.0, 99.0) for gap in (0, 8, 512)]
        made.by_position += [
            {
                "run": run,
                "window": None,
                "first": 2**k,
                "last": 2**k,
                "tokens": 999,
                "loss": 3 - k / 9 + place,
                "gain": None,
            }
            for k in range(12)
        ]
    return made


def study() -> Results:
    trials = []
    for number in range(16):
        window, kind = 2 ** DRAW.randint(4, 9), DRAW.choice(["swa", "mlstm", "sa"])
        loss = 3 - 0.08 * math.log2(window) + DRAW.random() / 9
        values: list[list[float | None]] = [[loss + DRAW.gauss(0, 0.01), window * 4096.0] for _ in range(3)]
        trials.append(Trial(number, "done", {"w": window, "kind": kind, "lr": DRAW.random()}, kind, values=values))
    means, least = [trial.means for trial in trials], [False, False]
    front = set(pareto_front(means, least))
    rows = [
        RankedTrial(place, trials[at], trials[at].means, trials[at].half_intervals, at in front)
        for place, at in enumerate(rank(means, least), start=1)
    ]
    shares = [{"w": 0.6, "kind": 0.2, "lr": 0.1}] * 2
    return Results("a study", {"val_loss": "min", "state_bytes": "min"}, rows, shares, trials, Counts(), 16, 3)


TRIED = [TrialCurve(n, 0, list(range(1, 61)), [4 - n / 20 - s / 60 for s in range(60)]) for n in range(16)]
BRANCHED = "[[swa(kv_heads=2,theta=500000):stoch(16,64,until=.9) | mlstm]*3, sa(kv_heads=2)]*2"


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("recipes")
    patterns = {"branched": BRANCHED, "plain": "[swa:16, mlstm]*2", "attention": "sa*4"}
    for name, pattern in patterns.items():
        sizes = "model: {width: 32, tie: true}\ndata: {sequence: 64}\n"
        (folder / f"{name}.yaml").write_text(f"pattern: {pattern}\n{sizes}")
    return [folder / f"{name}.yaml" for name in patterns]


def drawn(recipes: list[Path]) -> Iterator[tuple[str, Figure, set[str]]]:
    """Name and figure of every kind of picture, and the texts that a reader looks for in it."""
    short = {"swax-stochastic", "swax-2048", "a transformer with a rather long name"}
    yield "curves", draw_curves(curves()), {*short, "validation", "tokens", "loss (nats a token)"}
    yield "seconds", draw_curves(curves()[:1], "seconds"), {"seconds of training"}
    wanted = {
        "depth-niah_single_1": {"length", "depth of the needle in %", "4k", "128k", "90 to 100"},
        "length-window": {"test window", "128", "2,048", "16k"},
        "train-test": {"test window", "swax-stochastic: stoch(128,2048)"},
        "position": short | {"tokens before", "1k"},
        "recall": {f"far, {name}" for name in short},
    }
    found = dict(eval_pictures(evaluation()))
    assert found.keys() == wanted.keys()
    yield from ((name, figure, wanted[name]) for name, figure in found.items())
    asked = [request for file in recipes for request in cost_requests(str(file), load_recipe(file))]
    yield "costs", draw_costs(asked), {"branched", "plain", "attention", "context (tokens)", "state of a sequence"}
    stack = stack_picture(load_recipe(recipes[0]))
    yield (
        "stack",
        stack,
        {"×3", "×2", "mlstm", "ffn", "sa(kv_heads=2)", "16 · 64", "all", "embedding", "64 (55%)", "step"},
    )
    yield "plain stack", stack_picture(load_recipe(recipes[1])), {"swa:16", "×2", "16", "norm, tied head"}
    for name, _, figure in study_figures(study(), TRIED):
        say = {"front": {"Pareto front", "trials", "state_bytes (less is better)"}, "parallel": {"w", "kind", "lr"}}
        yield name, figure, say.get(name, set())
    lines = {"runs/a": [{"step": n, "probe.recall.8.own": n / 9, "probe.recall.64.own": n / 99} for n in (1, 2, 3)]}
    yield from ((f"probe {kind}", figure, {"8.own", "64.own"}) for kind, figure in draw_probes(lines))


def texts(figure: Figure) -> list[Text]:
    """The texts that are drawn: ticks beyond the ends of an axis are not."""
    hidden: set[Text] = set()
    for axes in figure.axes:
        for axis, ends in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not (axes.axison and min(ends) <= tick.get_loc() <= max(ends)):
                    hidden |= {tick.label1, tick.label2}
            if not axes.axison:
                hidden.add(axis.label)
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in hidden]


@pytest.mark.slow
def test_every_picture_shows_all_its_series_with_readable_text_inside_the_frame(recipes: list[Path]) -> None:
    for name, figure, wanted in drawn(recipes):
        FigureCanvasAgg(figure)
        with _plain(figure):
            figure.canvas.draw()
            found = texts(figure)
            boxes = [(text.get_text(), text.get_window_extent()) for text in found]
        said = {text for text, _ in boxes}
        assert not wanted - said, f"{name}: {wanted - said} not in {said}"
        whole = figure.bbox
        for text, box in boxes:
            inside = (
                whole.x0 - 1 <= box.x0 and box.x1 <= whole.x1 + 1 and whole.y0 - 1 <= box.y0 and box.y1 <= whole.y1 + 1
            )
            assert inside, f"{name}: `{text}` leaves the frame: {box} of {whole}"
            assert "…" not in text, f"{name}: `{text}` is cut"
        if name not in ("front", "parallel"):  # numbers of trials stand beside points, which may be close
            for (a, box), (b, other) in combinations(boxes, 2):
                over = (
                    min(box.x1, other.x1) - max(box.x0, other.x0) > 2
                    and min(box.y1, other.y1) - max(box.y0, other.y0) > 3
                )
                assert not over, f"{name}: `{a}` lies on `{b}`"
        for text in found:
            behind = background(text)
            assert contrast(to_rgba(text.get_color()), behind) >= 4.5, f"{name}: `{text.get_text()}` on {behind}"
        ElementTree.fromstring(svg(figure))


def background(text: Text) -> tuple[float, float, float]:
    """The colour behind a text: that of the cell of a heatmap, else the paper."""
    for image in text.axes.get_images() if text.axes else ():
        x, y = (round(float(at)) for at in text.get_position())
        rows, columns = image.get_array().shape
        if text.get_text().isdecimal() and 0 <= x < columns and 0 <= y < rows and text.get_ha() == "center":
            red, green, blue, _ = image.cmap(image.norm(image.get_array()[y, x]))
            return red, green, blue
    return rgb(PAPER)


def test_colours_are_told_apart_from_paper_and_numbers_from_cells() -> None:
    from matplotlib import colormaps

    assert all(contrast(rgb(color), rgb(PAPER)) >= 3 for color in COLORS), "WCAG 2.2, 1.4.11: graphics"
    cells = [colormaps["viridis"](share / 100) for share in range(101)]
    assert all(contrast(rgb(text_color(cell)), cell) >= 4.5 for cell in cells)


def test_few_targets_make_no_point_and_long_curves_keep_their_extremes() -> None:
    joined = join_bins([(1, 20, 9.0), (2, 30, 9.0), (4, 400, 2.0), (8, 800, 1.0), (16, 150, 5.0)])
    assert joined[0] == (1, pytest.approx((50 * 9 + 400 * 2) / 450)) and len(joined) == 2
    points = [(float(n), 1.0) for n in range(10_000)]
    points[5003] = (5003.0, 99.0)
    kept = list(thinned(points))
    assert len(kept) <= 800 and (5003.0, 99.0) in kept and kept[0] == points[0] and kept[-1] == points[-1]


class Checker(HTMLParser):
    """Raises where elements are not closed in their order, an id stands twice, or something would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert len(given) == len(attrs), f"an attribute stands twice: {attrs}"
        if "id" in given:
            assert given["id"] not in self.ids, f"{given['id']} stands twice"
            self.ids.add(str(given["id"]))
        for key in ("src", "href", "xlink:href", "action", "srcset"):
            assert str(given.get(key, "#")).startswith(("#", "data:")), f"{tag} asks for {given[key]}"
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def check_page(text: str) -> None:
    checker = Checker()
    checker.feed(text)
    assert not checker.open and len(text) < 3_000_000
    targets = set(re.findall(r'<a href="#([^"]+)"', text))
    assert targets <= checker.ids
    styles = "".join(re.findall(r"<style>(.*?)</style>", text, flags=re.DOTALL))
    assert "@import" not in styles and "url(" not in styles
    script = re.findall(r'<script type="module">(.*?)</script>', text, flags=re.DOTALL)
    assert len(script) == 1 and not re.search(r"fetch\(|XMLHttpRequest|import ", script[0])
    assert set(re.findall(r"var\(--([\w-]+)\)", text)) <= set(re.findall(r"--([\w-]+):", styles))


@pytest.mark.slow
def test_pages_of_evaluations_and_studies_are_valid_and_whole() -> None:
    result, found = evaluation(), study()
    check_page(text := page([result, result], [list(eval_pictures(result))] * 2))
    assert text.count("<figure") == 10 and "Earlier, 1" in text
    check_page(_html(found, [ranking(found)], list(study_figures(found, TRIED))))
    values = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', text)[3])
    assert [len(line["points"]) for line in values] == [12] * 3 and {line["x"] for line in values} == {"tokens before"}
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


def test_a_picture_has_the_colours_of_the_page(recipes: list[Path]) -> None:
    text = picture("a", "title", stack_picture(load_recipe(recipes[1])))
    assert not re.search("#(16191d|5b626b|0072b2)", text) and "var(--ink)" in text and 'id="a-' in text
