"""A recipe's stack as a tree, and the lists of `hybridkit blocks` and `hybridkit doctor`."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from hybridkit.cost.flops import entry_parameters, layer_parameters, parameters
from hybridkit.language.printer import canonical
from hybridkit.model.plan import Plan, entry_branches
from hybridkit.registry.registry import Row
from hybridkit.report.console import Console, Table, Text, Tree, styled
from hybridkit.report.numbers import format_parameters
from hybridkit.report.stack import Repeated, StackLayer, stack_tree

_INDENT = " " * 6


def outline(recipe: Path, plan: Plan) -> dict[str, Any]:
    """What `show --json` prints: sizes, canonical pattern, parameters, and the entries in the graph's order."""
    count = parameters(plan)
    return {
        "recipe": str(recipe),
        "pattern": plan.pattern,
        "stack": canonical(list(map(str, plan.entries))),
        "width": plan.dims.width,
        "heads": plan.dims.heads,
        "vocab": plan.dims.vocab,
        "tied": plan.config.tie,
        "embedding_scale": plan.config.row_scale,
        "mixers": sum(entry.is_mixer for entry in plan.entries),
        "params": {**count._asdict(), "total": count.total},
        **plan.config.stack_options(),
        "entries": [_node(plan, index) for index in range(len(plan.entries))],
    }


def _node(plan: Plan, index: int) -> dict[str, Any]:
    """An entry of the stack, its norms included, and its branches where there are several."""
    entry = plan.entries[index]
    said = [
        {"index": branch.name, "block": str(branch.block), "params": layer_parameters(branch.block, plan.dims)}
        for branch in entry_branches(index, entry)
    ]
    return {
        "index": index,
        "block": str(entry),
        "mixes": entry.is_mixer,
        "params": entry_parameters(plan, entry),
        **({"branches": said} if len(said) > 1 else {}),
    }


def print_outline(drawn: dict[str, Any]) -> None:
    """The stack as a tree: a branch a repeated group, parameters of one entry beside it."""
    console = Console()
    params = drawn["params"]
    console.print(styled((drawn["recipe"], "bold")))
    console.print(f"pattern: {drawn['pattern']}")
    root = Tree(f"width {drawn['width']}, {drawn['heads']} heads, vocabulary {drawn['vocab']}")
    scaled = "" if drawn["embedding_scale"] == 1 else f", rows times {drawn['embedding_scale']:.4g}"
    root.add(styled("embedding ", (format_parameters(params["embedding"]) + scaled, "dim")))
    _grow(root, stack_tree(drawn["entries"], "block", [entry["mixes"] for entry in drawn["entries"]]))
    root.add("norm")
    shared = styled("head ", ("the embedding's weight", "dim"))
    root.add(shared if drawn["tied"] else _counted("head", params["head"]))
    console.print(root)
    others = len(drawn["entries"]) - drawn["mixers"]
    console.print(
        f"{drawn['mixers']} mixers and {others} FFNs, {format_parameters(params['total'])} parameters"
        f" ({params['total']:,}; {params['body']:,} without embedding and head)"
    )


def _grow(branch: Tree, part: Repeated) -> None:
    alone = part.parts[0] if len(part.parts) == 1 else None
    times = f" x {part.times}" if part.times > 1 else ""
    if alone is not None and not isinstance(alone, Repeated):
        _add(branch, alone, times)
        return
    inner = branch.add(f"repeated{times}") if times else branch
    for child in part.parts:
        _grow(inner, child) if isinstance(child, Repeated) else _add(inner, child, "")


def _add(branch: Tree, entry: StackLayer, times: str) -> None:
    below = entry.get("branches", [])
    drawn = branch.add(_counted(f"{'side by side' if below else entry['block']}{times}", entry["params"]))
    for one in below:
        drawn.add(_counted(one["block"], one["params"]))


def _counted(name: str, parameters: int) -> Text:
    return styled(f"{name} ", (format_parameters(parameters), "dim"))


def print_blocks(rows: Sequence[Row]) -> None:
    """What patterns and recipes may name: how it is written with its defaults, what it is, and who brings it."""
    console = Console()
    titles = {"window": "Window policies", "family": "Export formats"}
    for kind in dict.fromkeys(row.kind for row in rows):
        here = [row for row in rows if row.kind == kind]
        home = Counter(str(Path(row.owner).parent) for row in here).most_common(1)[0][0]
        console.print(styled((titles.get(kind, f"{kind.capitalize()}s"), "bold"), " ", (f"in {home}", "dim")))
        for row in here:
            given = f"({', '.join(row.arguments)})" if row.arguments else ""
            first, *others = wrap(f"{row.name}{given}", console.prose - 2, subsequent_indent="    ")
            console.print(styled("  ", (row.name, "bold"), first.removeprefix(row.name)))
            for line in others:
                console.print(f"  {line}")
            for line in wrap(row.doc, console.prose, initial_indent=_INDENT, subsequent_indent=_INDENT):
                console.print(line)
            if str(Path(row.owner).parent) != home:
                console.print(styled((f"{_INDENT}{row.owner}", "dim")))


def print_doctor(found: dict[str, Any]) -> None:
    """What is installed, and which kernel each block uses here."""
    console = Console()
    console.print(f"Python {found['python']} on {found['device']}, {found['threads']} threads, {found['precision']}")
    installed = ", ".join(f"{name} {version or 'MISSING'}" for name, version in found["packages"].items())
    console.print("\n".join(wrap(f"installed: {installed}", console.prose)))
    extras = Table("extra", "packages", "", right=())
    for extra, versions in found["extras"].items():
        missing = not all(versions.values())
        said = ", ".join(f"{name} {version or '-'}" for name, version in versions.items())
        extras.add_row(extra, said, f"pip install 'hybridkit[{extra}]'" if missing else "")
    console.print(extras)
    alike: dict[tuple[str, str], list[str]] = {}
    for name, kernel in found["kernels"].items():
        alike.setdefault((kernel["kernel"], kernel["reason"]), []).append(name)
    kernels = Table("blocks", "kernel here", "why", right=())
    for (kernel, reason), names in alike.items():
        kernels.add_row(", ".join(names), kernel, reason)
    console.print("", kernels, sep="\n")
