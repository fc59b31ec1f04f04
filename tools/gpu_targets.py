"""The targets of speed, which `gpu_check.py` puts beside what it measured.

They were set for one H100 or H200: 1.4B in bf16, one row of 16,384 tokens. `before` is the first measurement, on one
H100 80GB (torch 2.11.0, triton 3.6.0, mlstm_kernels 2.0.6), before the work that the targets are for; "FFN 5632" or
"documents reset": it was measured with these settings only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hybridkit.report.markup import markdown_table

Report = dict[str, Any]
SWAX, XLSTM, TRANSFORMER = "paper/swax-stochastic-1.4b", "paper/xlstm-1.4b", "paper/transformer-1.4b"


class Target(NamedTuple):
    """One figure: at least `least`, at most `most`; without both it is only shown."""

    what: str
    measure: Callable[[Report], float | None]
    before: str
    least: float | None = None
    most: float | None = None


def value(report: Report, section: str, column: str, **match: Any) -> float | None:
    """The column of the first row of a section that has these entries; None where nothing was measured."""
    rows = (row for one in report["sections"] if one["section"] == section for row in one["rows"])
    fitting = (row for row in rows if all(row.get(name) == wanted for name, wanted in match.items()))
    return next((float(row[column]) for row in fitting if row.get(column) is not None), None)


def ratio(a: float | None, b: float | None) -> float | None:
    """a / b, where both were measured."""
    return a / b if a and b else None


def trained(report: Report, recipe: str, window: str = "None", options: str = "{}") -> float | None:
    """Tokens a second of a row of `training`."""
    return value(report, "training", "tokens_per_second", recipe=recipe, window=window, options=options)


def peer(report: Report, name: str) -> float | None:
    """Tokens a second of a row of `peers`."""
    return value(report, "peers", "tokens_per_second", model=name)


def switching(report: Report) -> float | None:
    """Speed with windows that take turns, over what the two windows' own times give."""
    short, long = trained(report, SWAX, "128"), trained(report, SWAX, "2048")
    mean = 2 / (1 / short + 1 / long) if short and long else None
    return ratio(trained(report, SWAX, "128, 2048"), mean)


def decoded(column: str) -> Callable[[Report], float | None]:
    """A column of SWAX's `inference` with one row."""
    return lambda report: value(report, "inference", column, recipe=SWAX, rows=1)


def first_step(caches: str) -> Callable[[Report], float | None]:
    """Seconds of the process that does one step of SWAX."""
    return lambda report: value(report, "first_step", "process_seconds", caches=caches)


def llama(label: str) -> Callable[[Report], float | None]:
    """Our transformer's speed over transformers' Llama's."""
    return lambda report: ratio(peer(report, "ours: transformer"), peer(report, label))


def shipped_widths(report: Report) -> float | None:
    """Speed with the recipe's widths of FFNs over that with multiples of 64."""
    return ratio(trained(report, SWAX, "128"), trained(report, SWAX, "128", "{'ffn': 5632}"))


TARGETS = (
    Target("tests/gpu: exit code", lambda r: value(r, "tests", "code"), "9 of 14 failed", most=0),
    Target("first step, cold caches, s", first_step("cold"), "33 to 38", most=90),
    Target("first step, warm caches, s", first_step("warm"), "5 to 13", most=20),
    Target("SWAX 1.4B, w = 128, tokens/s", lambda r: trained(r, SWAX, "128"), "20,411", least=45_000),
    Target("SWAX 1.4B, w = 2048, tokens/s", lambda r: trained(r, SWAX, "2048"), "20,373"),
    # Nothing is to be lost: 2 % are left to the scatter of medians of few steps.
    Target("windows that take turns, over their mean", switching, "-", least=0.98),
    Target("FFN widths as shipped, over 5632", shipped_widths, "0.67 (documents reset at 5632)", least=0.97),
    Target("xLSTM 1.4B, tokens/s", lambda r: trained(r, XLSTM), "30,656 (FFN 5632)", least=42_000),
    Target("SWAX 1.4B, prefill, tokens/s", decoded("prefill"), "41,032", least=120_000),
    Target("SWAX 1.4B, decoding, tokens/s", decoded("decode"), "218 (38 without a graph)", least=600),
    Target("the same, share of the copy rate (an aim)", decoded("share_of_copying"), "0.22", least=0.65),
    Target("transformer 1.4B over transformers' Llama", llama("llama"), "1.03 (FFN 5632)", least=1.3),
    Target("the same, Llama compiled", llama("llama, compiled"), "-", least=1.0),
)


def verdict(target: Target, found: float | None) -> tuple[str, str]:
    """What was asked for, and whether it was reached."""
    least, most = target.least, target.most
    wanted = "-" if least is most is None else f"at least {least:,}" if most is None else f"at most {most:,}"
    if found is None or least is most is None:
        return wanted, ""
    reached = (least is None or found >= least) and (most is None or found <= most)
    return wanted, "reached" if reached else "missed"


def cell(value: object) -> str:
    """A float with four digits, thousands apart; anything else as text."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def table(report: Report) -> str:
    """Targets beside what was measured, in Markdown."""
    rows = []
    for target in TARGETS:
        found = target.measure(report)
        wanted, said = verdict(target, None if report["small"] else found)
        rows.append([target.what, wanted, target.before, "not measured" if found is None else cell(found), said])
    return markdown_table(("figure", "target", "before", "measured", ""), rows)
