"""Tables of `hybridkit flops`: totals of recipes side by side, and each recipe's layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from hybridkit.recipe.files import run_name
from hybridkit.report.console import Console, Table, between
from hybridkit.report.numbers import format_bytes, format_count, format_ratio, format_tokens, format_weights

if TYPE_CHECKING:  # it imports fvcore
    from hybridkit.cost.cross_check import Check

CostEntry = Mapping[str, Any]  # of the schema in docs/flops.md
LabelledCells = tuple[str, list[str]]  # a label and its cells

_STATES = (1 << 10, 1 << 14, 1 << 17, 1 << 20)  # tokens at which the table shows state bytes
_SUMMED = ("params", "forward_flops_per_token", "state_bytes")


class TotalsRow(NamedTuple):
    """A line of the totals: its label, the figure of an entry, and how that is written."""

    label: str
    figure: Callable[[CostEntry], float]
    write: Callable[[float], str]
    fixed: bool = False  # whether the context does not change it


def print_costs(entries: Sequence[CostEntry]) -> None:
    """The totals, recipes side by side, or the contexts of one; then the layers of each recipe."""
    console = Console()
    recipes: dict[str, list[CostEntry]] = defaultdict(list)
    for entry in entries:
        recipes[entry["recipe"]].append(entry)
    console.print(_heading(entries[0]), "", sep="\n")
    for table in totals(list(recipes.values()), console.width):
        console.print(table, "")
    for name, found in recipes.items():
        console.print(f"{name}: {found[0]['pattern']}")
        tables = layers(found), layers(found[-1:]), layers(found[-1:], SHORT)
        console.print(next((table for table in tables if table.whole <= console.width), tables[-1]), "")


def print_check(checks: Mapping[str, Sequence[Check]], notes: Sequence[str]) -> None:
    """What independent counters see of each recipe's distinct layers, and what they cannot see."""
    console = Console()
    for name, rows in checks.items():
        table = Table("one sequence", "exact", "hardware", "fvcore x 2", "torch")
        for row in rows:
            table.add_row(row.layer, *("-" if n is None else format_count(n) for n in row[1:5]))
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
    batch = "" if entry["batch"] == 1 else f", {entry['batch']} rows decode together"
    return f"count {entry['count']}, {window}, weights and states in {entry['dtype']}{batch}"


def totals(recipes: Sequence[Sequence[CostEntry]], width: int) -> Iterator[Table]:
    """The totals of recipes; what is wider than `width` in further tables."""
    (common, *names), lines = cost_rows(recipes)
    widths = [max(len(name), *(len(cells[at]) for _, cells in lines)) + 2 for at, name in enumerate(names)]
    for part in _parts(widths, width - max(len(label) for label, _ in lines)):
        table = Table(common, *names[part])
        for label, cells in lines:
            table.add_row(label, *cells[part])
        yield table


def cost_rows(recipes: Sequence[Sequence[CostEntry]]) -> tuple[list[str], list[LabelledCells]]:
    """The heads and lines of the totals of recipes, each with an entry for every context.

    Columns are recipes, compared with the first, and lines are repeated for each context; of one recipe, columns are
    contexts.
    """
    if len(recipes) == 1:
        names = [f"at {format_tokens(entry['context'])}" for entry in recipes[0]]
        return [*short([recipes[0][0]["recipe"]]), *names], list(_lines([recipes[0]], _cells))
    common, names = between(short(entries[0]["recipe"] for entries in recipes))
    return [common, *names], list(_lines(list(zip(*recipes, strict=True)), _compared))


def _parts(widths: Sequence[int], room: int) -> Iterator[slice]:
    """Stretches of columns that fit into the room, each of one at least."""
    begin = used = 0
    for at, width in enumerate(widths):
        if at > begin and used + width > room:
            yield slice(begin, at)
            begin, used = at, 0
        used += width
    yield slice(begin, len(widths))


def _lines(groups: Sequence[Sequence[CostEntry]], write: Callable[..., list[str]]) -> Iterator[LabelledCells]:
    """The lines of groups of entries, one for each context; the places in a group are the columns."""
    if len(groups) == 1 and write is _compared:
        yield "context", [format_tokens(entry["context"]) for entry in groups[0]]
    for row in _rows([entry for group in groups for entry in group]):
        if row.fixed or len(groups) == 1:
            yield row.label, write(row, groups[0])
            continue
        for group in groups:
            yield f"{row.label}, {format_tokens(group[0]['context'])}", write(row, group)


def _cells(row: TotalsRow, entries: Sequence[CostEntry]) -> list[str]:
    """The figures of a recipe at its contexts; one that none of them changes is written once."""
    written = [row.write(row.figure(entry)) for entry in entries]
    return [written[0], *[""] * (len(written) - 1)] if row.fixed else written


def _compared(row: TotalsRow, entries: Sequence[CostEntry]) -> list[str]:
    """The figures of recipes, all but the first beside what they are of the first."""
    first, *others = map(row.figure, entries)
    return [row.write(first), *(f"{row.write(figure)} {format_ratio(figure, first):>6}" for figure in others)]


def _rows(entries: Sequence[CostEntry]) -> Iterator[TotalsRow]:
    entry = entries[0]
    yield TotalsRow("parameters", lambda e: e["params"]["total"], format_weights, True)
    if any(one["params"]["active"] != one["params"]["total"] for one in entries):  # some experts are left out
        yield TotalsRow("  for one token", lambda e: e["params"]["active"], format_weights, True)
    yield TotalsRow("  in the stack", lambda e: e["params"]["body"], format_weights, True)
    yield TotalsRow("forward FLOPs/token", lambda e: e["flops_per_token"]["forward"], format_count)
    yield TotalsRow("training FLOPs/token", lambda e: e["flops_per_token"]["training"], format_count)
    yield TotalsRow("  recompute adds", lambda e: e["flops_per_token"]["recompute"], format_count)
    yield TotalsRow("prefill FLOPs", lambda e: e["prefill_flops"], format_count)
    yield TotalsRow("decode FLOPs/token", lambda e: e["flops_per_token"]["decode"], format_count)
    yield TotalsRow("decode bytes/token", lambda e: e["decode_bytes_per_token"], format_bytes)
    for n in _STATES:
        yield TotalsRow(f"state at {format_tokens(n)}", partial(_state, str(n)), format_bytes, True)
    for name in ("weights", "gradients", "optimizer"):
        yield TotalsRow(f"training {name}", partial(_memory, name), format_bytes, True)
    if "activations" in entry["memory"]:
        yield TotalsRow("training activations", lambda e: e["memory"]["activations"]["kept"], format_bytes)
        yield TotalsRow("  if recomputed", lambda e: e["memory"]["activations"]["recomputed"], format_bytes)
    if entry["memory"]["ranks"] > 1:
        for stage in entry["memory"]["zero"]:
            yield TotalsRow(f"  a rank, ZeRO {stage}", partial(_zero, stage), format_bytes, True)


def _state(at: str, entry: CostEntry) -> float:
    return entry["state_bytes"][at]


def _memory(name: str, entry: CostEntry) -> float:
    return entry["memory"][name]


def _zero(stage: str, entry: CostEntry) -> float:
    return entry["memory"]["zero"][stage]


_HEADS = ("params", "FLOPs/token", "", "state at {}")  # of one context; the third is the share of the FLOPs
SHORT = ("params", "FLOPs", None, "state {}")  # where the terminal is narrow


def layers(entries: Sequence[CostEntry], heads: Sequence[str | None] = _HEADS) -> Table:
    """A row for equal layers together, and one for what stands around them; columns for the contexts of the entries.

    `heads`: the columns of one context, None for one that is left out.
    """
    contexts = [format_tokens(entry["context"]) for entry in entries]
    if len(entries) > 1:
        heads = ["params", *(f"{what} {at}" for what in ("FLOPs", "state") for at in contexts)]
    table = Table("layers", *(head.format(contexts[0]) for head in heads if head is not None))

    def add(name: str, cells: Sequence[str]) -> None:
        table.add_row(name, *(cell for cell, head in zip(cells, heads, strict=True) if head is not None))

    groups: dict[str, list[int]] = defaultdict(list)
    for at, layer in enumerate(entries[0]["layers"]):
        groups[layer["entry"]].append(at)
    widest = max(len(str(len(places))) for places in groups.values())
    around = [entries[0]["params"]["total"], *(entry["flops_per_token"]["forward"] for entry in entries)]
    for said, places in groups.items():
        alike = [[entry["layers"][at] for at in places] for entry in entries]
        cells, spent = _summed(alike, entries)
        around = [left - used for left, used in zip(around, spent, strict=True)]
        add(f"{len(places):>{widest}} x {said}", cells)
        for place, branch in enumerate(alike[0][0].get("branches", [])):
            parts = [[layer["branches"][place] for layer in layers] for layers in alike]
            add(" " * (widest + 5) + branch["entry"], _summed(parts, entries)[0])
    name = " " * (widest + 3) + "embedding, norm, head"
    add(name, [format_weights(around[0]), *_shares(around[1:], entries), *[""] * len(entries)])
    return table


def _summed(alike: Sequence[Sequence[CostEntry]], entries: Sequence[CostEntry]) -> tuple[list[str], list[float]]:
    """The cells of equal layers, given for each entry; and their parameters and FLOPs as numbers."""
    params, flops, states = ([sum(layer[key] for layer in layers) for layers in alike] for key in _SUMMED)
    cells = [format_weights(params[0]), *_shares(flops, entries), *map(format_bytes, states)]
    return cells, [params[0], *flops]


def _shares(flops: Sequence[float], entries: Sequence[CostEntry]) -> list[str]:
    """FLOPs, and where there is one context, their share of a token's."""
    written = list(map(format_count, flops))
    return written if len(flops) > 1 else [*written, f"{flops[0] / entries[0]['flops_per_token']['forward']:.1%}"]
