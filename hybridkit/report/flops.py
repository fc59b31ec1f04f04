"""Tables of `hybridkit flops`: totals of recipes side by side, and each recipe's layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from hybridkit.recipe.files import run_name
from hybridkit.report.console import Console, Table

if TYPE_CHECKING:  # it imports fvcore
    from hybridkit.cost.cross_check import Check

Entry = Mapping[str, Any]  # of the schema in docs/flops.md

_LABEL, _COLUMN = 28, 24  # characters of a label, and of a recipe's column
_STATES = (1 << 10, 1 << 14, 1 << 17, 1 << 20)  # tokens at which the table shows state bytes


class Row(NamedTuple):
    """A line of the totals: its label, the figure of an entry, and how that is written."""

    label: str
    figure: Callable[[Entry], float]
    write: Callable[[float], str]


def print_costs(entries: Sequence[Entry]) -> None:
    """All entries of a context together, as many side by side as fit, the first beside each of the others."""
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
            table.add_row(row.layer, *(quantity(n) for n in (row.exact, row.hardware, row.fvcore, row.torch)))
        console.print(f"{name}, scaled down\n")
        console.print(table, "")
    for note in notes:
        console.print(note)


def short(recipes: Iterable[str]) -> list[str]:
    """Recipes' names without folders and endings, where these differ."""
    recipes = list(recipes)
    names = list(map(run_name, recipes))
    return names if len(set(names)) == len(set(recipes)) else recipes


def tokens(number: int) -> str:
    """A number of tokens as the command line takes it: 1000, 16k, 1M."""
    for unit, letter in ((1 << 20, "M"), (1 << 10, "k")):
        if number % unit == 0:
            return f"{number // unit}{letter}"
    return str(number)


def quantity(number: float) -> str:
    """A count with a decimal unit: 6.174 G."""
    return _scaled(number, 1000, ("", "k", "M", "G", "T", "P", "E"))


def amount(number: float) -> str:
    """Bytes with a binary unit: 24.05 MiB."""
    return _scaled(number, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"))


def _scaled(number: float, base: int, units: Sequence[str]) -> str:
    place = 0
    while number >= base and place < len(units) - 1:
        number, place = number / base, place + 1
    # Four digits, and as many more as stand before the point: 1023 MiB.
    digits = max(0, 3 - len(str(int(number))) + 1) if place else 0
    return f"{number:.{digits}f} {units[place]}".rstrip()


def _heading(entry: Entry) -> str:
    window = "own windows" if entry["window"] is None else f"window {entry['window']}"
    counted = f"{tokens(entry['context'])} tokens, count {entry['count']}, {window}"
    return f"{counted}; weights and states in {entry['dtype']}, batch {entry['batch']}\n"


def _totals(entries: Sequence[Entry]) -> Table:
    table = Table("", *short(entry["recipe"] for entry in entries))
    for row in _rows(entries[0]):
        first, *others = (row.figure(entry) for entry in entries)
        compared = (f"{row.write(figure)} {_percent(figure, first)}" for figure in others)
        table.add_row(row.label, row.write(first), *compared)
    return table


def _percent(figure: float, first: float) -> str:
    return f"{figure / first - 1:+.1%}".rjust(8) if first else "-".rjust(8)


def _rows(entry: Entry) -> Iterator[Row]:
    """The lines that entries of the same context have."""
    here = tokens(entry["context"])
    yield Row("parameters", lambda e: e["params"]["total"], quantity)
    yield Row("  without embedding, head", lambda e: e["params"]["body"], quantity)
    yield Row("forward FLOPs/token", lambda e: e["flops_per_token"]["forward"], quantity)
    yield Row("training FLOPs/token", lambda e: e["flops_per_token"]["training"], quantity)
    yield Row("  recomputation adds", lambda e: e["flops_per_token"]["recompute"], quantity)
    yield Row(f"prefill FLOPs, {here}", lambda e: e["prefill_flops"], quantity)
    yield Row(f"decode FLOPs/token at {here}", lambda e: e["flops_per_token"]["decode"], quantity)
    yield Row("decode bytes/token", lambda e: e["decode_bytes_per_token"], amount)
    for n in sorted({*_STATES, entry["context"]}):
        yield Row(f"state at {tokens(n)}", partial(_state, str(n)), amount)
    for name in ("weights", "gradients", "optimizer"):
        yield Row(f"training {name}", partial(_memory, name), amount)
    if "activations" in entry["memory"]:
        yield Row("training activations", lambda e: e["memory"]["activations"]["kept"], amount)
        yield Row("  with recomputation", lambda e: e["memory"]["activations"]["recomputed"], amount)
    if entry["memory"]["ranks"] > 1:
        for stage in entry["memory"]["zero"]:
            yield Row(f"  a rank, ZeRO {stage}", partial(_zero, stage), amount)


def _state(at: str, entry: Entry) -> float:
    return entry["state_bytes"][at]


def _memory(name: str, entry: Entry) -> float:
    return entry["memory"][name]


def _zero(stage: str, entry: Entry) -> float:
    return entry["memory"]["zero"][stage]


def _layers(entry: Entry) -> Table:
    """A row for equal layers together, and one for what stands around them."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for layer in entry["layers"]:
        groups[layer["entry"]].append(layer)
    total, forward = entry["params"]["total"], entry["flops_per_token"]["forward"]
    table = Table("layers", "", "parameters", "FLOPs/token", "", f"state at {tokens(entry['context'])}")
    table.columns[1].justify = "left"
    rest, spent = total, forward
    for said, layers in groups.items():
        params, flops, state = (sum(layer[key] for layer in layers) for key in _SUMMED)
        rest, spent = rest - params, spent - flops
        table.add_row(
            f"{len(layers)} x", said, quantity(params), quantity(flops), f"{flops / forward:.1%}", amount(state)
        )
    table.add_row("", "embedding, norm, head", quantity(rest), quantity(spent), f"{spent / forward:.1%}", "")
    return table


_SUMMED = ("params", "forward_flops_per_token", "state_bytes")
