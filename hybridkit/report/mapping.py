"""What the layers of a converted model began with, and the choice of mixers that it keeps.

Layers that began alike share a paragraph: 24 mixers are most often two or three of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from hybridkit.convert.keep import Choice
from hybridkit.convert.mapping import MappedLayer
from hybridkit.model.plan import Plan
from hybridkit.report.console import Console, Table, styled
from hybridkit.report.page import TextTable

LISTS = {  # how a weight began, and what that means
    "copied": "as the teacher has them",
    "repeated": "key-value heads repeated",
    "part": "some channels of each head",
    "set": "by the mixer's own rule",
    "new": "as built",
    "left": "of the teacher, without a place",
    "notes": "",
}


def print_mapping(layers: Sequence[MappedLayer], plan: Plan) -> None:
    """A paragraph for all mixers of the student's plan that began alike, then what was copied beside them."""
    console = Console()
    numbers = _mixer_numbers(plan)
    for (title, lists), found in _alike(layers, plan).items():
        console.print(styled((_places(found, numbers), "bold"), f": {title}"))
        table = Table("  ", "", right=())
        table.show_header = False
        for name, weights in lists:
            meaning = f" ({LISTS[name]})" if LISTS[name] else ""
            table.add_row(f"  {name}", ", ".join(weights) + meaning)
        console.print(table)
    console.print(f"copied as they are: {named_beside(plan)}")


def named_beside(plan: Plan) -> str:
    """What a conversion copies beside mixers."""
    return f"embedding, norms, head, {sum(not entry.is_mixer for entry in plan.entries)} FFNs"


def mapping_table(layers: Sequence[MappedLayer], plan: Plan) -> TextTable:
    """The same as a table: a row for each way in which weights of mixers began."""
    numbers, rows = _mixer_numbers(plan), []
    for (title, lists), found in _alike(layers, plan).items():
        said = lists or (("kept", ("all weights",)),)
        rows += [[_places(found, numbers), title, name, ", ".join(weights)] for name, weights in said]
    return TextTable("What every mixer began with", ["mixers", "block", "how", "weights"], rows)


def print_choice(choice: Choice) -> None:
    """The table of `keep: auto N`."""
    told = choice_table(choice)
    table = Table(*told.columns)
    for row in told.rows:
        table.add_row(*row)
    Console().print(table)


def choice_table(choice: Choice) -> TextTable:
    """The teacher, then the teacher without each mixer, and what is kept."""
    whole = choice.teacher
    rows = [["none", "", f"{whole.recall:.3f}", f"{whole.loss:.4f}", "", ""]]
    for row in choice.candidates:
        figures = f"{row.without.recall:.3f}", f"{row.without.loss:.4f}", f"{row.score:.3g}"
        rows.append([str(row.mixer), str(row.entry), *figures, "yes" if row.kept else ""])
    columns = ["without mixer", "entry", "recall", "loss", "recall lost / loss lost", "kept"]
    return TextTable("Which mixers are kept", columns, rows, [at for at, row in enumerate(rows) if row[-1]])


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers, stretches written as `0-3`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 2 else ", ".join(map(str, part)) for part in parts)


Lists = tuple[tuple[str, tuple[str, ...]], ...]


def _alike(layers: Sequence[MappedLayer], plan: Plan) -> Mapping[tuple[str, Lists], list[MappedLayer]]:
    """The mixers by what is told of them."""
    found: dict[tuple[str, Lists], list[MappedLayer]] = defaultdict(list)
    for layer in layers:
        entry = plan.entries[layer.entry]
        if entry.is_mixer:
            block = entry.branches[int(layer.branch.partition(".")[2] or 0)]
            found[_title(layer, str(block)), tuple(_lists(layer))].append(layer)
    return found


def _title(layer: MappedLayer, block: str) -> str:
    said = {"kept": f"{block}, kept", "new": f"{block}, new in place of {layer.teacher}"}
    return said.get(layer.how, f"{block} in place of {layer.teacher}")


def _lists(layer: MappedLayer) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The lists of a layer that are not empty, with weights named as in its block; nothing for a kept layer."""
    prefix = f"{layer.branch.partition('.')[2]}.{layer.student}.".lstrip(".")
    for name in LISTS if layer.how != "kept" else ():
        if listed := getattr(layer, name):
            yield name, tuple(one.removeprefix(prefix) if prefix in one else _beside(one) for one in listed)


def _beside(name: str) -> str:
    """A weight of the entry itself, which a mixer may have one of the same name as."""
    return f"the entry's {name}" if name in ("norm.weight", "post_norm.weight") else name


def _places(layers: Sequence[MappedLayer], numbers: Mapping[int, int]) -> str:
    """The mixers, and the entries that they are."""
    several = "s" if len(layers) > 1 else ""
    branches = [layer.branch for layer in layers]
    entries = ", ".join(branches if len(branches) < 4 else [*branches[:2], "...", branches[-1]])
    mixers = ranges([numbers[layer.entry] for layer in layers])
    return f"mixer{several} {mixers} ({'entries' if several else 'entry'} {entries})"


def _mixer_numbers(plan: Plan) -> dict[int, int]:
    """The number of the mixer at an entry."""
    mixing = [index for index, entry in enumerate(plan.entries) if entry.is_mixer]
    return {index: number for number, index in enumerate(mixing)}
