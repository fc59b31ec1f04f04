"""What the first figures of a card are held against: `gpu_check.py` puts these beside what it measured.

`before` is what one H100 gave on 2026-11-25 (torch 2.11, triton 3.6), before the work that the targets are of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Report = dict[str, Any]
SWAX, XLSTM, TRANSFORMER = "paper/swax-stochastic-1.4b", "paper/xlstm-1.4b", "paper/transformer-1.4b"


class Target(NamedTuple):
    """One figure: at least `least`, or at most `most`."""

    what: str
    measure: Callable[[Report], float | None]
    least: float | None
    most: float | None
    before: str


def value(report: Report, section: str, column: str, **match: Any) -> float | None:
    """The column of the first row of a section that has these entries; None where nothing was measured."""
    for one in report["sections"]:
        for row in one["rows"] if one["section"] == section else ():
            if all(row.get(name) == wanted for name, wanted in match.items()) and row.get(column) is not None:
                return float(row[column])
    return None


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
    Target("tests/gpu: exit code", lambda r: value(r, "tests", "code"), None, 0, "9 of 14 failed"),
    Target("first step, cold caches, s", first_step("cold"), None, 90, "33 to 38"),
    Target("first step, warm caches, s", first_step("warm"), None, 20, "5 to 13"),
    Target("SWAX 1.4B, w = 128, tokens/s", lambda r: trained(r, SWAX, "128"), 45_000, None, "20,411"),
    Target("SWAX 1.4B, w = 2048, tokens/s", lambda r: trained(r, SWAX, "2048"), None, None, "20,373"),
    Target("windows that take turns, over their mean", switching, 0.98, None, "-"),
    Target("FFN widths as shipped, over 5632", shipped_widths, 0.97, None, "0.67"),
    Target("xLSTM 1.4B, tokens/s", lambda r: trained(r, XLSTM), 42_000, None, "30,656 (FFN 5632)"),
    Target("SWAX 1.4B, prefill, tokens/s", decoded("prefill"), 120_000, None, "41,032"),
    Target("SWAX 1.4B, decoding, tokens/s", decoded("decode"), 600, None, "218 (38 without a graph)"),
    Target("SWAX 1.4B, decoding, share of the copy rate", decoded("share_of_copying"), 0.65, None, "0.22"),
    Target("transformer 1.4B over transformers' Llama", llama("llama"), 1.3, None, "1.03 (FFN 5632)"),
    Target("the same, Llama compiled", llama("llama, compiled"), 1.0, None, "-"),
)


def verdict(target: Target, found: float | None) -> tuple[str, str]:
    """What was asked for, and whether it was reached."""
    if target.least is None and target.most is None:
        return "-", ""
    wanted = f"at least {target.least:,}" if target.most is None else f"at most {target.most:,}"
    if found is None:
        return wanted, ""
    reached = found >= target.least if target.least is not None else found <= (target.most or 0)
    return wanted, "reached" if reached else "missed"


def table(report: Report) -> str:
    """Targets beside what was measured, in Markdown."""
    lines = ["| figure | target | before | measured | |", "|---|---|---|---|---|"]
    for target in TARGETS:
        found = target.measure(report)
        wanted, said = verdict(target, None if report["small"] else found)
        shown = "not measured" if found is None else f"{found:,.0f}" if found >= 100 else f"{found:.3g}"
        lines.append(f"| {target.what} | {wanted} | {target.before} | {shown} | {said} |")
    return "\n".join(lines)
