"""What probes found over training: a picture for each kind of probe."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hybridkit.report.eval_curves import SAME
from hybridkit.report.figure import headline, label, labels, told_apart
from hybridkit.report.layered import plot_layered
from hybridkit.report.plot_style import PAGE, by_last, counts, in_style, legend, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Lines = Sequence[Mapping[str, Any]]  # of metrics.jsonl
_PREFIX = "probe."


def draw_probes(runs: Mapping[str, Lines]) -> Iterator[tuple[str, Figure]]:
    """The name of each kind of probe, such as `recall`, and its figure; `runs` gives the lines by name."""
    kinds: dict[str, dict[tuple[str, str], list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for run, lines in runs.items():
        for line in lines:
            for name, value in line.items():
                if name.startswith(_PREFIX) and value is not None:
                    kind, _, rest = name.removeprefix(_PREFIX).partition(".")
                    kinds[kind][run, rest].append((line["step"], value))
    for kind, found in kinds.items():
        yield "".join(c if c.isalnum() else "_" for c in kind), _figure(kind, found)


@in_style
def _figure(kind: str, found: Mapping[tuple[str, str], Sequence[tuple[int, float]]]) -> Figure:
    names = labels(run for run, _ in found)
    shared, apart = told_apart([(names[run], *map(_short, _said(rest))) for run, rest in found])
    figure = new_figure(PAGE, 2.8)
    axes = figure.add_subplot(xlabel="step", ylabel="right answers in %", ylim=(-4, 104))
    axes.set_title(headline(kind, shared))
    curves = [[(step, 100 * value) for step, value in points] for points in found.values()]
    handles = plot_layered(axes, dict(zip(apart, curves, strict=True)), SAME)
    counts(axes, "x")
    if len(handles) > 1:
        order = by_last([points[-1][1] for points in curves])
        legend(figure, [handles[at] for at in order], [label(apart[at]) for at in order])
    return figure


def _short(fact: str) -> str:
    return label(fact) if fact else ""


def _said(rest: str) -> list[str]:
    """Task, tokens and window, as far as the metric names them: `niah_single_1.512.own`, `near.8`, nothing."""
    if "." not in rest:
        return [rest, "", ""]
    *task, tokens, window = rest.split(".")
    gap = "held-out queries" if tokens == "near" else f"{tokens} tokens"
    return [".".join(task), gap, "own window" if window == "own" else f"window {window}"]
