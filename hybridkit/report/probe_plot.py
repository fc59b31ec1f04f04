"""What probes found over training: a picture for each kind of probe."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hybridkit.report.figure import label, labels
from hybridkit.report.plot_style import PAGE, by_last, counts, in_style, legend, new_figure, series

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
    figure = new_figure(PAGE, 2.8)
    axes = figure.add_subplot(xlabel="step", ylabel=label(kind))
    names = labels(run for run, _ in found)
    handles = []
    for place, ((run, rest), points) in enumerate(found.items()):
        said = ", ".join(filter(None, [names[run] if len(names) > 1 else "", rest])) or kind
        handles += axes.plot(*zip(*points, strict=True), marker="o", label=label(said), **series(place))
    counts(axes, "x")
    order = by_last([points[-1][1] for points in found.values()])
    legend(figure, [handles[at] for at in order], [str(handles[at].get_label()) for at in order])
    return figure
