"""Every picture, drawn from fixed data: what a person who looks at them would miss.

All series are there, no text leaves the frame or lies on other text, and text can be read on what is behind it.
"""

import math
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text
from pictured import TRIED, curves, evaluation, study

from hybridkit.cost.summary import cost_requests
from hybridkit.report.curves import RunCurve, draw_curves
from hybridkit.report.eval_curves import join_bins
from hybridkit.report.figure import _plain, svg
from hybridkit.report.flops_plot import draw_costs
from hybridkit.report.heatmap import eval_pictures
from hybridkit.report.page_picture import picture
from hybridkit.report.plot_style import COLORS, PAPER, contrast, rgb, text_color, thinned
from hybridkit.report.probe_plot import draw_probes
from hybridkit.report.recipe_pictures import stack_picture
from hybridkit.report.search_plots import study_figures
from hybridkit.report.stage_plot import draw_stages
from hybridkit.runs.run import load_recipe
from hybridkit.search.results import Results, TrialCurve

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
        "position": short | {"Loss by position: own window, unknown text", "1k"},
        "recall": short | {"Far recall: own window", "gap in tokens"},
    }
    found = dict(eval_pictures(evaluation()))
    assert found.keys() == wanted.keys()
    yield from ((name, figure, wanted[name]) for name, figure in found.items())
    far = evaluation()
    far.cells = [cell._replace(window=w) for cell in far.cells if cell.task == "recall_far" for w in (8, 64)]
    said = {
        "gap in tokens",
        "test window",
        "swax-2048\ntrained with 2048",
        "a transformer with a rather long name",
    }
    yield "recall-window", dict(eval_pictures(far))["recall-window"], said
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
    stages = {
        name: [{"step": 1, "tokens": 9}, {"step": 1, "val_loss": 2.0 - at}] for at, name in enumerate(("1-a", "2-b"))
    }
    said = {"1-a, validations", "2-b, validations", "all held-out text", "teacher, all held-out text"}
    yield "stages", draw_stages(stages, {"teacher": 1.0, "0-mapped": 3.0, "1-a": 2.1, "2-b": 1.1}), said
    lines = {"runs/a": [{"step": n, "probe.recall.8.own": n / 9, "probe.recall.near.own": n / 99} for n in (1, 2, 3)]}
    yield from ((f"probe {kind}", figure, {"8 tokens", "held-out queries"}) for kind, figure in draw_probes(lines))


def unkind(folder: Path) -> Iterator[tuple[str, Figure, set[str]]]:
    """Pictures of what nobody has in mind: long, strange and equal names, many series, one step, losses of any size."""
    names = [f"runs/{'a-rather-long-name-of-a-run-' * 3}{n:02}" for n in range(12)]
    yield "twelve runs", draw_curves([unkind_run(name, 30, 2.0 + n) for n, name in enumerate(names)]), set()
    strange = ["$x_1^2$ {a} %s", "_hidden", "ψ-Läufe & <b>", "a\nb\tc", "", "x"]
    found = draw_curves([unkind_run(f"runs/{name}", 3, 1.0) for name in strange])
    yield "strange names", found, {"$x_1^2$ {a} %s", " _hidden", "ψ-Läufe & <b>", "-"}
    yield "one step, a large loss", draw_curves([unkind_run("a", 1, 1e30)], "seconds"), {"a", "validation"}
    lost = [unkind_run(name, 5, math.nan) for name in ("runs/a", "runs/b")]
    yield "no number", draw_curves(lost), {"a", "b", "no loss is a number"}
    stages = [
        RunCurve(f"runs/{term}", [s | {term: 1.0} for s in unkind_run("", 9, 0.01).steps], []) for term in ("kl", "ce")
    ]
    yield (
        "stages of a conversion",
        draw_curves([*stages, unkind_run("runs/c", 9, 3.0)]),
        {"loss of the stage (kl or ce)"},
    )
    found = evaluation()
    long = {run: f"studies/{run.removeprefix('runs/')[:9]}-{'x' * 60}/seed-0" for run in found.trained}
    found.cells = [c._replace(run=long[c.run]) for c in found.cells]
    found.depths, found.by_position = [], []
    found.trained = {long[run]: said for run, said in found.trained.items()}
    yield from ((f"long names: {name}", figure, set()) for name, figure in eval_pictures(found) if name != "train-test")
    file = folder / f"{'recipe-of-a-long-name-' * 3}.yaml"
    file.write_text("pattern: [swa:8, mlstm]*2\nmodel: {width: 32}\n")
    yield "a long name", stack_picture(load_recipe(file)), {"swa:8"}


def unkind_run(name: str, steps: int, size: float) -> RunCurve:
    """A run whose losses fall from four times `size` to `size`."""
    losses = [size * (1 + 3 / n) for n in range(1, steps + 1)]
    each = {"seconds": 1e-3, "tokens_per_second": 1.0}
    lines = [each | {"step": n, "tokens": n, "loss": loss} for n, loss in enumerate(losses, start=1)]
    return RunCurve(name, lines, [{"step": n, "val_loss": losses[n - 1]} for n in (1, steps)])


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
        said = read(name, figure, numbers=name in ("front", "parallel"))
        assert not wanted - said, f"{name}: {wanted - said} not in {said}"
        assert not [text for text in said if "…" in text], f"{name}: a text is cut"


@pytest.mark.slow
def test_pictures_of_unkind_names_and_figures_can_be_read(tmp_path: Path) -> None:
    for name, figure, wanted in unkind(tmp_path):
        said = read(name, figure, numbers=name in ("front", "parallel"))
        assert not wanted - said, f"{name}: {wanted - said} not in {said}"


def read(name: str, figure: Figure, numbers: bool = False) -> set[str]:
    """The texts of a picture, all of them inside its frame, apart from each other, and readable on what is behind them.
    `numbers`: of trials stand beside points, which may be close."""
    FigureCanvasAgg(figure)
    with _plain(figure):
        figure.canvas.draw()
        found = texts(figure)
        boxes = [(text.get_text(), text.get_window_extent()) for text in found]
    whole = figure.bbox
    for text, box in boxes:
        inside = whole.x0 - 1 <= box.x0 and box.x1 <= whole.x1 + 1 and whole.y0 - 1 <= box.y0 and box.y1 <= whole.y1 + 1
        assert inside, f"{name}: `{text}` leaves the frame: {box} of {whole}"
    for (a, box), (b, other) in combinations(boxes if not numbers else [], 2):
        over = min(box.x1, other.x1) - max(box.x0, other.x0) > 2 and min(box.y1, other.y1) - max(box.y0, other.y0) > 3
        assert not over, f"{name}: `{a}` lies on `{b}`"
    for text in found:
        behind = background(text)
        assert contrast(to_rgba(text.get_color()), behind) >= 4.5, f"{name}: `{text.get_text()}` on {behind}"
    ElementTree.fromstring(svg(figure))
    return {text for text, _ in boxes}


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
    joined = join_bins([(1, 1, 20, 9.0), (2, 3, 30, 9.0), (4, 7, 400, 2.0), (8, 15, 800, 1.0), (16, 31, 150, 5.0)])
    middle = math.exp((30 * math.log(6) + 400 * math.log(28)) / 2 / 450)  # of the positions of all 450 targets
    assert joined[0] == (pytest.approx(middle), pytest.approx((50 * 9 + 400 * 2) / 450)) and len(joined) == 2
    points = [(float(n), 1.0) for n in range(10_000)]
    points[5003] = (5003.0, 99.0)
    kept = list(thinned(points))
    assert len(kept) <= 800 and (5003.0, 99.0) in kept and kept[0] == points[0] and kept[-1] == points[-1]


def test_no_step_and_no_run_is_left_out_of_a_picture_of_losses() -> None:
    def run(name: str, losses: list[float | None]) -> RunCurve:
        steps = [
            {"step": n, "tokens": 8 * n, "loss": loss, "tokens_per_second": 1.0} for n, loss in enumerate(losses, 1)
        ]
        return RunCurve(name, steps, [])

    def marked(losses: list[float | None]) -> list[int]:
        line = next(line for line in draw_curves([run("a", losses)]).axes[0].lines if line.get_label() == "a")
        return line.get_markevery() or []

    assert marked([5.0]) == [0], "a line of one point cannot be seen"
    assert marked([5.0, None, 4.0, 3.0, None, 2.0]) == [0, 5] and marked([5.0, 4.0]) == []
    high = draw_curves([run("long", [2.0] * 20_000), run("short", [6.0] * 10)]).axes[0].get_ylim()[1]
    assert high > 6, "a short run beside a long one"


def test_the_curve_of_a_trial_joins_the_same_steps_of_its_seeds() -> None:
    seeds = [TrialCurve(0, 0, [1, 2, 3], [9.0, 8.0, 7.0]), TrialCurve(0, 1, [2, 3], [8.0, 7.0])]
    figure = dict((name, figure) for name, _, figure in study_figures(study(), seeds))["curves"]
    line = next(line for line in figure.axes[0].lines if len(line.get_xdata()))
    assert list(zip(line.get_xdata(), line.get_ydata(), strict=True)) == [(2, 8.0), (3, 7.0)]


def test_a_picture_has_the_colours_of_the_page(recipes: list[Path]) -> None:
    text = picture("a", "title", stack_picture(load_recipe(recipes[1])))
    assert not re.search("#(16191d|5b626b|0072b2)", text) and "var(--ink)" in text and 'id="a-' in text


def aimed(objectives: int) -> Results:
    """The study with so many objectives, the third the opposite of the first, so that all trials are on the front."""
    found = study()
    rows = [
        row._replace(means=[*row.means, -row.means[0]][:objectives], half_intervals=[None] * objectives,
                     on_front=objectives > 2 or row.on_front)
        for row in found.rows
    ]  # fmt: skip
    names = dict.fromkeys(("val_loss", "state_bytes", "gain")[:objectives], "min")
    return found._replace(objectives=names, rows=rows, importance=found.importance[:1] * objectives)


def test_only_a_front_of_two_objectives_is_a_staircase() -> None:
    for objectives in (1, 2, 3):
        (title, figure), *_ = [(title, figure) for _, title, figure in study_figures(aimed(objectives), [])]
        (axes,) = figure.axes
        stairs = [line for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata()) > 1]
        assert (bool(stairs), "staircase" in title) == (objectives == 2, objectives == 2)


def test_numbers_of_the_front_stand_where_there_is_room() -> None:
    found = aimed(3)
    rows = [row._replace(means=[1.0, 1.0, row.means[2]]) for row in found.rows[:-1]]
    rows.append(found.rows[-1]._replace(means=[2.0, 2.0, 2.0]))
    _, _, figure = next(iter(study_figures(found._replace(rows=rows), [])))
    numbers = [text.get_text() for text in figure.axes[0].texts]
    assert numbers == [str(rows[0].trial.number), str(rows[-1].trial.number)], "one of those that lie on one another"


def test_the_best_trial_is_the_strongest_line_on_light_and_dark_pages() -> None:
    figure = dict((name, figure) for name, _, figure in study_figures(study(), []))["parallel"]
    *_, best = figure.axes[0].lines
    assert best.get_alpha() == 1 and all(line.get_alpha() < 1 for line in figure.axes[0].lines[:-1])
    assert {line.get_color() for line in figure.axes[0].lines} == {COLORS[0]}, "which a page has in its own colour"
