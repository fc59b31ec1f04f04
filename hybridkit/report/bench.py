"""Tables of `hybridkit bench`: the passes beside the machine's ceilings, and the parts of the training step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hybridkit.report.console import Console, Table
from hybridkit.report.numbers import format_bytes, format_count, format_parameters, format_tokens

Figures = Mapping[str, Any]  # what `hybridkit.bench.benchmark.run_benchmark` gives


def print_bench(found: Figures) -> None:
    """What was measured, how fast each pass was, and where the training step spends its time."""
    console = Console()
    for line in _heading(found):
        console.print(line)
    console.print("", _passes(found), _decode(found), "", _parts(found), sep="\n")
    console.print(f"\nslowest: {found['slowest']}\nmemory: {found['peak_bytes_are']}")


def _heading(found: Figures) -> Iterator[str]:
    window = f"window {found['window']}" if found["window"] else "each policy's largest window"
    threads = "1 thread" if found["threads"] == 1 else f"{found['threads']} threads"
    ceilings = found["ceilings"]
    yield f"{found['recipe']}: {found['pattern']}, {format_parameters(found['parameters'])} parameters"
    yield (
        f"{found['batch']} x {format_tokens(found['sequence'])} tokens, {window}, {found['precision']} on"
        f" {found['device']}, {threads}, medians of {found['repeat']}"
    )
    matrix, copy = ceilings["matrix_flops_per_second"], ceilings["copy_bytes_per_second"]
    yield f"ceilings: {format_count(matrix)}FLOP/s of matrix products{_how(ceilings, 'matrix')}"
    yield f"  {format_count(copy)}B/s of copies{_how(ceilings, 'copy')}"


def _how(ceilings: Figures, which: str) -> str:
    """How far the measurements of a ceiling lie apart, and what was faster than all of them."""
    reached = ceilings[f"{which}_reached_by"]
    said = f" (the best is {ceilings[f'{which}_spread']:.2f} times the median"
    return f"{said}; reached by {reached})" if reached else f"{said})"


def _passes(found: Figures) -> Table:
    table = Table("pass", "ms", "tokens/s", "FLOP/s", "of ceiling", "peak memory")
    for name, figures in found["passes"].items():
        table.add_row(
            name,
            f"{1e3 * figures['seconds']:,.1f}",
            f"{figures['tokens_per_second']:,.0f}",
            format_count(figures["flops_per_second"]),
            f"{figures['mfu']:.1%}",
            format_bytes(figures["peak_bytes"]),
        )
    return table


def _decode(found: Figures) -> str:
    return f"decode reads weights and states at {found['passes']['decode']['copy_share']:.1%} of the copy rate"


def _parts(found: Figures) -> Table:
    table = Table("part of the training step, alone", "", "ms", "of the step", "of ceiling")
    for part in sorted(found["parts"], key=lambda part: -part["seconds"]):
        table.add_row(
            part["part"],
            f"{part['count']} x",
            f"{1e3 * part['seconds']:,.1f}",
            f"{part['share']:.1%}",
            "" if part["mfu"] is None else f"{part['mfu']:.1%}",
        )
    return table
