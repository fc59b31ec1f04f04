"""Tables of `hybridkit flops`: totals of recipes side by side, and each recipe's layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from hybridkit.recipe.files import run_name
from hybridkit.report.console import Console, Table
from hybridkit.report.numbers import format_bytes, format_count, format_tokens

if TYPE_CHECKING:  # it imports fvcore
    from hybridkit.cost.cross_check import Check

CostEntry = Mapping[str, Any]  # of the schema in docs/flops.md

_LABEL, _COLUMN = 28, 24  # characters of a label, and of a recipe's column
_STATES = (1 << 10, 1 << 14, 1 << 17, 1 << 20)  # tokens at which the table shows state bytes


class TotalsRow(NamedTuple):
    """A line of the totals: its label, the figure of an entry, and how that is written."""

    label: str
    figure: Callable[[CostEntry], float]
    write: Callable[[float], str]


def print_costs(entries: Sequence[CostEntry]) -> None:
    """A table for each context, recipes side by side; where they do not fit, several, each with the first recipe."""
    console = Console()
    for context in dict.fromkeys(entry["context"] for entry in entries):
        first, *others = (entry for entry in entries if entry["context"] == context)
        console.print(_heading(first))
        room = max(1, (console.width - _LABEL) // _COLUMN - 1)
        for begin in range(0, max(len(others), 1), room):
            console.print(_totals([first, *others[begin : begin + room]]), "")
        for entry in (first, *others):
            console.print(f"{entry['recipe']}: {entry['pattern']}")
            console.print(_layers(entry), "")


def print_check(checks: Mapping[str, Sequence[Check]], notes: Sequence[str]) -> None:
    """What independent counters see of each recipe's distinct layers, and what they cannot see."""
    console = Console()
    for name, rows in checks.items():
        table = Table("one sequence", "exact", "hardware", "fvcore x 2", "torch")
        for row in rows:
            table.add_row(row.layer, *(format_count(n) for n in (row.exact, row.hardware, row.fvcore, row.torch)))
        console.print(f"{name}, scaled down\n")
        console.print(table, "")
    for note in notes:
        console.print(note)


def short(recipes: Iterable[str]) -> list[str]:
    """Recipes' names without folders and endings, where these differ."""
    recipes = list(recipes)
    names = list(map(run_name, recipes))
    return names if len(set(names)) == len(set(recipes)) else recipes


def _heading(entry: CostEntry) -> str:
    window = "each policy's windows" if entry["window"] is None else f"window {entry['window']}"
    counted = f"{format_tokens(entry['context'])} tokens, count {entry['count']}, {window}"
    return f"{counted}\nweights and states in {entry['dtype']}, batch {entry['batch']}\n"


def _totals(entries: Sequence[CostEntry]) -> Table:
    table = Table("", *short(entry["recipe"] for entry in entries))
    for row in _rows(entries[0]):
        first, *others = (row.figure(entry) for entry in entries)
        compared = (f"{row.write(figure)} {_percent(figure, first)}" for figure in others)
        table.add_row(row.label, row.write(first), *compared)
    return table


def _percent(figure: float, first: float) -> str:
    return f"{figure / first - 1:+.1%}".rjust(8) if first else "-".rjust(8)


def _rows(entry: CostEntry) -> Iterator[TotalsRow]:
    """The lines that entries of the same context have."""
    here = format_tokens(entry["context"])
    yield TotalsRow("parameters", lambda e: e["params"]["total"], format_count)
    yield TotalsRow("  that one token passes", lambda e: e["params"]["active"], format_count)
    yield TotalsRow("  without embedding, head", lambda e: e["params"]["body"], format_count)
    yield TotalsRow("forward FLOPs/token", lambda e: e["flops_per_token"]["forward"], format_count)
    yield TotalsRow("training FLOPs/token", lambda e: e["flops_per_token"]["training"], format_count)
    yield TotalsRow("  recomputation adds", lambda e: e["flops_per_token"]["recompute"], format_count)
    yield TotalsRow(f"prefill FLOPs, {here}", lambda e: e["prefill_flops"], format_count)
    yield TotalsRow(f"decode FLOPs/token at {here}", lambda e: e["flops_per_token"]["decode"], format_count)
    yield TotalsRow("decode bytes/token", lambda e: e["decode_bytes_per_token"], format_bytes)
    for n in sorted({*_STATES, entry["context"]}):
        yield TotalsRow(f"state at {format_tokens(n)}", partial(_state, str(n)), format_bytes)
    for name in ("weights", "gradients", "optimizer"):
        yield TotalsRow(f"training {name}", partial(_memory, name), format_bytes)
    if "activations" in entry["memory"]:
        yield TotalsRow("training activations", lambda e: e["memory"]["activations"]["kept"], format_bytes)
        yield TotalsRow("  with recomputation", lambda e: e["memory"]["activations"]["recomputed"], format_bytes)
    if entry["memory"]["ranks"] > 1:
        for stage in entry["memory"]["zero"]:
            yield TotalsRow(f"  a rank, ZeRO {stage}", partial(_zero, stage), format_bytes)


def _state(at: str, entry: CostEntry) -> float:
    return entry["state_bytes"][at]


def _memory(name: str, entry: CostEntry) -> float:
    return entry["memory"][name]


def _zero(stage: str, entry: CostEntry) -> float:
    return entry["memory"]["zero"][stage]


def _layers(entry: CostEntry) -> Table:
    """A row for equal layers together, and one for what stands around them."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for layer in entry["layers"]:
        groups[layer["entry"]].append(layer)
    total, forward = entry["params"]["total"], entry["flops_per_token"]["forward"]
    table = Table("layers", "", "parameters", "FLOPs/token", "", f"state at {format_tokens(entry['context'])}")
    table.columns[1].justify = "left"
    rest, spent = total, forward
    for said, layers in groups.items():
        params, flops, state = (sum(layer[key] for layer in layers) for key in _SUMMED)
        rest, spent = rest - params, spent - flops
        table.add_row(
            f"{len(layers)} x",
            said,
            format_count(params),
            format_count(flops),
            f"{flops / forward:.1%}",
            format_bytes(state),
        )
        for branch in zip(*(layer.get("branches", []) for layer in layers), strict=True):
            params, flops, state = (sum(layer[key] for layer in branch) for key in _SUMMED)
            shown = f"  {branch[0]['entry']}", format_count(params), format_count(flops)
            table.add_row("", *shown, f"{flops / forward:.1%}", format_bytes(state))
    table.add_row("", "embedding, norm, head", format_count(rest), format_count(spent), f"{spent / forward:.1%}", "")
    return table


_SUMMED = ("params", "forward_flops_per_token", "state_bytes")
