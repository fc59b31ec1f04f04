"""Pictures of a conversion: the loss on held-out text from stage to stage, and how near each new mixer came."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hybridkit.report.figure import label
from hybridkit.report.plot_style import (
    FAINT,
    PAGE,
    by_last,
    counts,
    in_style,
    isolated,
    legend,
    logarithmic,
    new_figure,
    series,
    thinned,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MetricLines = Sequence[Mapping[str, Any]]  # of metrics.jsonl
ERROR = re.compile(r"mse\.\d+")  # of one entry, in the metrics of the loss `hidden`
POWER, TEACHER = "teacher_power", "teacher"


@in_style
def draw_stages(stages: Mapping[str, MetricLines], measured: Mapping[str, float]) -> Figure:
    """Validations of all stages over the tokens of the conversion, and what was `measured` of all held-out text.

    `measured` is by the names of the stages, of `teacher`, a line, and of what was mapped, which stands at 0 tokens.
    """
    drawing = new_figure(PAGE, 3.0)
    axes = drawing.add_subplot(xlabel="tokens of the conversion", ylabel="loss (nats a token)")
    handles, before, ends = [], 0, dict.fromkeys(measured, 0)
    for place, (name, lines) in enumerate(stages.items(), start=1):
        tokens = {line["step"]: line["tokens"] for line in lines if "tokens" in line}
        found = [line for line in lines if line.get("val_loss") is not None and line["step"] in tokens]
        places = [before + tokens[line["step"]] for line in found]
        losses = [line["val_loss"] for line in found]
        look = series(place) | {"linestyle": ":", "linewidth": 1.0, "zorder": 4}
        if losses:
            handles += axes.plot(places, losses, marker="o", label=label(f"{name}, validations"), **look)
        before += max(tokens.values(), default=0)
        ends[name] = before
        axes.axvline(before, color=FAINT, linewidth=0.5)
    teacher, students = measured.get(TEACHER), [name for name in measured if name != TEACHER]
    if students:
        points = [(ends[name], measured[name]) for name in students]
        handles += axes.plot(
            *zip(*points, strict=True), marker="o", markersize=7, label="all held-out text", **series(0)
        )
    if teacher is not None:
        handles.append(axes.axhline(teacher, color=FAINT, linestyle=(0, (4, 2)), label="teacher, all held-out text"))
    counts(axes, "x")
    legend(drawing, handles, [str(handle.get_label()) for handle in handles], below=True)
    return drawing


def has_errors(lines: MetricLines) -> bool:
    """Whether a stage measured errors of mixers."""
    return any(map(ERROR.fullmatch, lines[0] if lines else ()))


@in_style
def draw_errors(lines: MetricLines) -> Figure:
    """Of every new mixer over the steps: its squared error, as a share of the mean error of mixers that add nothing."""
    drawing = new_figure(PAGE, 3.0)
    axes = drawing.add_subplot(xlabel="step", ylabel="share of the teacher's mean square")
    steps = [line for line in lines if line.get(POWER)]
    names = [name for name in steps[0] if ERROR.fullmatch(name)] if steps else []
    handles, lasts = [], []
    for place, name in enumerate(names):
        points = list(thinned([(line["step"], line[name] / line[POWER]) for line in steps if line.get(name)]))
        if points:
            said = f"entry {name.partition('.')[2]}"
            handles += axes.plot(*zip(*points, strict=True), label=said, **series(place), **isolated(points))
            lasts.append(points[-1][1])
    if handles:
        logarithmic(axes, "y")
    counts(axes, "x")
    order = by_last(lasts)
    legend(drawing, [handles[at] for at in order], [str(handles[at].get_label()) for at in order])
    return drawing
