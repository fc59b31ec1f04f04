"""A window policy over training: which window which step has, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hybridkit.block import ALL, TrainStep
from hybridkit.cost.flops import window_shares
from hybridkit.report.figure import label
from hybridkit.report.numbers import format_tokens
from hybridkit.report.plot_style import COLORS, counts

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

    from hybridkit.model.plan import Plan

Shares = Mapping[int, float]  # of the steps that have each window
_MOST = 400  # steps that are drawn


def shares_of(plan: Plan, sequence: int) -> dict[str, Shares]:
    """The shares of every policy in a plan, in rows of so many tokens, by the policy as patterns say it."""
    return {str(policy): dict(window_shares(policy, sequence)) for policy in plan.policies if policy}


def size_name(size: int) -> str:
    """A window as a picture shows it: 2k only where it is whole."""
    return "all" if size == ALL else format_tokens(size)


def draw_policies(
    figure: SubFigure, plan: Plan, shares: Mapping[str, Shares], seed: int, steps: int, sequence: int
) -> None:
    """A panel for each policy: a dot for each of some steps, and the share of every window at the right."""
    panels = figure.subplots(len(shares), 1, sharex=True, squeeze=False)
    places = sorted({round(at * (steps - 1) / (_MOST - 1)) for at in range(_MOST)})
    for place, (axes, (name, sizes)) in enumerate(zip(panels.flat, shares.items(), strict=True)):
        index = next(at for at, policy in enumerate(plan.policies) if str(policy) == name)
        top = 4 * max((size for size in sizes if size != ALL), default=1)  # where `all` is drawn
        at = (TrainStep(seed, step, steps, sequence=sequence) for step in places)
        drawn = [min(plan.windows(step)[index] or 1, top) for step in at]
        axes.plot(places, drawn, "|", color=COLORS[place % len(COLORS)], markersize=7, markeredgewidth=1.1)
        few = sorted(sizes) if len(sizes) < 5 else [min(sizes), max(sizes)]
        axes.set_yscale("log", base=2)
        axes.set_yticks([min(size, top) for size in few],
                             [f"{size_name(size)} ({sizes[size]:.0%})" if len(few) == len(sizes) else size_name(size)
                              for size in few])  # fmt: skip
        axes.minorticks_off()
        axes.set_ylim(min(sizes) / 1.6, min(max(sizes), top) * 1.6)
        axes.set_title(label(name), loc="left", fontsize="small")
        axes.margins(x=0.01)
    counts(panels[-1][0], "x")
    panels[-1][0].set_xlabel("step")
