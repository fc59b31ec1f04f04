"""What a study compares, in tables and pictures: its arms, their differences, and their scores by length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from hybridkit.report.eval_curves import AXIS, SAME, TITLES
from hybridkit.report.figure import headline, label
from hybridkit.report.layered import plot_layered
from hybridkit.report.page import TextTable
from hybridkit.report.plot_style import FAINT, NO_TOKENS, PAGE, in_style, legend, new_figure, series, token_axis
from hybridkit.search.compare import Arm, ArmRun, Comparison, Difference, Question
from hybridkit.search.results import Asked, TrialScores
from hybridkit.search.trials import half_interval

if TYPE_CHECKING:  # half a second
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WITHOUT = " without "  # in the names of ablated tasks


def comparison_tables(found: Comparison) -> list[TextTable]:
    """The table of the arms, and that of their differences to the reference."""
    return [table for table in (_arms(found), _differences(found)) if table.rows]


def scores_of(table: Mapping[int, Mapping[str, list[float]]], trials: Iterable[int]) -> dict[str, list[float]]:
    """All scores of some trials, by length."""
    scores: dict[str, list[float]] = {}
    for found in (table[trial] for trial in trials if trial in table):
        for length, values in found.items():
            scores.setdefault(length, []).extend(values)
    return scores


def _arms(found: Comparison) -> TextTable:
    learnt = ["learnt", "at step"] if found.settings.learnt else []
    rows = []
    for arm in found.trials:
        runs = found.of(arm)
        said = _learnt(runs) if found.settings.learnt else []
        rows.append([arm.label, str(len(runs)), *said, *(_mean(question, runs) for question in found.questions)])
    bound = found.settings.learnt
    what = f"; learnt: last {bound.metric} {_bound(found)}; at step: the first probe within it" if bound else ""
    title = f"Arms (mean ± half the 95 % interval over runs{what})"
    return TextTable(title, ["arm", "runs", *learnt, *(question.title for question in found.questions)], rows)


def _bound(found: Comparison) -> str:
    bound = found.settings.learnt
    assert bound
    return f"at least {bound.at_least:g}" if bound.at_least is not None else f"at most {bound.at_most:g}"


def _learnt(runs: Sequence[ArmRun]) -> list[str]:
    """How many runs have learnt, and when they first had: the median, and the range."""
    steps = sorted(run.step for run in runs if run.step is not None)
    when = f"{median(steps):,.0f} [{steps[0]:,}, {steps[-1]:,}]" if steps else "-"
    return [f"{sum(run.learnt for run in runs)} of {len(runs)}", when]


def _mean(question: Question, runs: Sequence[ArmRun]) -> str:
    values = [_percent(question, run.figures[question]) for run in runs if question in run.figures]
    if not values:
        return "-"
    half = half_interval(values)
    few = f" ({len(values)})" if len(values) < len(runs) else ""
    return f"{_short(fmean(values))}{'' if half is None else f' ± {_short(half)}'}{few}"


def _differences(found: Comparison) -> TextTable:
    differences = found.differences()
    same = {one._replace(only_learnt=False) for one in differences if one.only_learnt}  # all pairs have learnt
    shown = [one for one in differences if one.only_learnt or one not in same]
    marked = [place for place, one in enumerate(shown) if one.half is not None and abs(one.mean) > one.half]
    columns = ("figure", "arm", "pairs", "difference", "95 % interval", "effect size", "above", "runs")
    reference = found.settings.reference
    title = f"Differences to {reference}, by pairs of runs with the same seed (arm minus {reference}; Student's t)"
    return TextTable(title, columns, [_difference(one) for one in shown], marked)


def _difference(one: Difference) -> list[str]:
    mean, half = _percent(one.question, one.mean), one.half and _percent(one.question, one.half)
    interval = "-" if half is None else f"[{_signed(mean - half)}, {_signed(mean + half)}]"
    effect = "-" if one.effect is None else _signed(one.effect)
    which = "learnt" if one.only_learnt else "all"
    above = f"{one.above} of {one.pairs}"
    return [one.question.title, one.arm.label, str(one.pairs), _signed(mean), interval, effect, above, which]


def _percent(question: Question, value: float) -> float:
    """Shares as percent, like the scores of evaluations; other figures as they are."""
    return 100 * value if question.name.startswith(("probe.", "recall_near")) else value


def _short(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{_short(value)}"


def comparison_figures(
    found: Comparison, tables: TrialScores, trained: int | None = None
) -> Iterator[tuple[str, str, Figure]]:
    """Name, title and figure for each test window, the largest first: scores by length, the training length marked."""
    for window in sorted({asked.window for asked in tables}, key=lambda name: (len(name), name), reverse=True):
        tasks = [asked for asked in sorted(tables) if asked.window == window and WITHOUT not in asked.task]
        title = "Scores by length, mean and 95 % interval over runs; dotted: the training length"
        where = "the model's own window" if window == "own" else f"test window {window}"
        if tasks:
            yield f"compare-{window}", f"{title}; {where}", _figure(found, tables, tasks, trained)


@in_style
def _figure(found: Comparison, tables: TrialScores, tasks: Sequence[Asked], trained: int | None) -> Figure:
    """A row of panels for each group of arms, a panel for each task."""
    groups = list(dict.fromkeys(arm.group for arm in found.trials))
    figure = new_figure(PAGE, 2.7 * len(groups))
    panels = figure.subplots(len(groups), len(tasks), squeeze=False)
    drawn: dict[str, Any] = {}
    for group, row in zip(groups, panels, strict=True):
        for asked, axes in zip(tasks, row, strict=True):
            arms = {arm: numbers for arm, numbers in found.trials.items() if arm.group == group}
            drawn |= _panel(axes, asked, {arm: scores_of(tables[asked], arms[arm]) for arm in arms}, trained)
            axes.set_title(headline(TITLES.get(asked.task, asked.task), label(group) if group else "", len(tasks)))
    legend(figure, list(drawn.values()), list(drawn), below=True)
    return figure


def _panel(axes: Axes, asked: Asked, scores: Mapping[Arm, Mapping[str, list[float]]], trained: int | None) -> Any:
    """The lines of the arms, with their intervals as bands; by the arms' names."""
    curves: dict[str, list[tuple[float, float]]] = {}
    looks = []
    places = {name: place for place, name in enumerate(dict.fromkeys(arm.name for arm in scores))}
    share = "loss" not in asked.task
    for arm, found in ((arm, found) for arm, found in scores.items() if found):
        lengths = sorted(found, key=int)
        x = [int(length) or NO_TOKENS for length in lengths]
        mean = [fmean(found[length]) for length in lengths]
        half = [half_interval(found[length]) or 0.0 for length in lengths]
        looks.append(series(places[arm.name]))
        ends = [(m - h, m + h) for m, h in zip(mean, half, strict=True)]
        low, high = zip(*(((max(0, a), min(100, b)) if share else (a, b)) for a, b in ends), strict=True)
        axes.fill_between(x, low, high, alpha=0.1, color=looks[-1]["color"], linewidth=0)
        curves[label(arm.name)] = list(zip(x, mean, strict=True))
    lines = plot_layered(axes, curves, SAME if share else 0.0, looks)
    axes.set(xlabel=AXIS.get(asked.task, "tokens"), ylabel="right answers in %" if share else "nats a token")
    if share:
        axes.set_ylim(-4, 104)
    token_axis(axes)
    if trained and axes.get_xlim()[0] < trained < axes.get_xlim()[1]:
        axes.axvline(trained, color=FAINT, linestyle=":", linewidth=0.9, zorder=0)
    return dict(zip(curves, lines, strict=True))
