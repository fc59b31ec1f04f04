"""`hybridkit flops`: what recipes cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hybridkit.cli.options import Json, Plugins, size_option
from hybridkit.system.choices import Count, Precision
from hybridkit.system.errors import UserError
from hybridkit.system.strict_json import format_json
from hybridkit.system.terminal import say

if TYPE_CHECKING:  # imported when the verb runs
    from hybridkit.cost.summary import CostRequest
    from hybridkit.recipe.files import Loaded

MAX_ROWS = 1 << 20  # of a batch; and ranks
MeasureName = Literal["flops", "params", "state", "training"]


def flops(
    what: Annotated[list[str], typer.Argument(metavar="RECIPE... [KEY=VALUE]...", help="Recipes, and changes to all.")],
    context: Annotated[
        str, typer.Option(metavar="N[,N...]", help="Tokens of a sequence, k and M allowed; default: data.sequence.")
    ] = "",
    count: Annotated[
        Count, typer.Option(help="Causal pairs; the convention of arXiv 2509.24552; what kernels execute.")
    ] = "exact",
    window: Annotated[str, typer.Option(metavar="W", help="One window in place of every policy's own.")] = "",
    batch: Annotated[int, typer.Option(min=1, max=MAX_ROWS, help="Rows that decode together.")] = 1,
    dtype: Annotated[Precision | None, typer.Option(help="Of weights and states; default: a run's.")] = None,
    ranks: Annotated[int, typer.Option(min=1, max=MAX_ROWS, help="Ranks that ZeRO shares training memory among.")] = 1,
    memory: Annotated[bool, typer.Option("--memory", help="Estimate the activations of training, too.")] = False,
    match: Annotated[
        MeasureName | None,
        typer.Option(help="Resize the second recipe to cost what the first does (training: set its steps)."),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Hold a small instance against fvcore and torch.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw costs over context: .png or .svg.")] = None,
    as_json: Json = False,
    plugin: Plugins = [],
) -> None:
    """Count FLOPs, parameters, state and memory of recipes, layer by layer, side by side. Nothing is allocated."""
    contexts = list(dict.fromkeys(size_option("--context", text) for text in context.split(","))) if context else []
    _refuse_unread(match, memory=memory, verify=verify, count=count != "exact", context=context, window=window)
    settings = {"count": count, "batch": batch, "window": size_option("--window", window) if window else None}
    loaded = _load(what)
    if plot:
        from hybridkit.report.figure import check_plot_file

        check_plot_file(plot)
    from hybridkit.cost.summary import cost_requests

    asked = [
        request
        for name, recipe in loaded.items()
        for request in cost_requests(name, recipe, contexts, precision=dtype, ranks=ranks, **settings)
    ]
    if match:
        _match(asked, match, as_json)
    elif verify:
        _verify(asked, as_json)
    else:
        _report(asked, memory, as_json)
    if plot:
        from hybridkit.report.figure import save_figure
        from hybridkit.report.flops_plot import draw_costs

        save_figure(draw_costs(asked[:: max(len(contexts), 1)]), plot)


def _refuse_unread(match: MeasureName | None, **given: object) -> None:
    """Raises UserError for an option that another leaves without effect."""
    if match:
        said, unread = f"--match {match}", ["memory", "verify"]
        unread += ["count", "window", "context"] if match == "training" else []
    elif given["verify"]:
        said, unread = "--verify", ["memory", "count", "window"]
    else:
        return
    for option in unread:
        if given[option]:
            raise UserError(f"--{option} changes nothing under {said}: leave one of them out")


def _load(what: Sequence[str]) -> dict[str, Loaded]:
    """The recipes by name, with the changes among the words made to each; before torch is imported."""
    from hybridkit.recipe.files import sort_words
    from hybridkit.runs.run import load_recipe

    names, overrides = sort_words(what)
    if not names:
        raise UserError("name a recipe: hybridkit flops quickstart")
    return {name: load_recipe(name, overrides) for name in names}


def _report(asked: Sequence[CostRequest], memory: bool, as_json: bool) -> None:
    from hybridkit.cost.summary import FLOPS_SCHEMA, cost_entry, with_activations

    entries = [cost_entry(request) for request in asked]
    if memory:
        entries = [with_activations(entry, request) for entry, request in zip(entries, asked, strict=True)]
    if as_json:
        say(format_json({"schema": FLOPS_SCHEMA, "recipes": entries}))
        return
    from hybridkit.report.flops import print_costs

    print_costs(entries)


def _match(asked: Sequence[CostRequest], measure: MeasureName, as_json: bool) -> None:
    if len(asked) != 2:
        raise UserError(f"--match takes two recipes and at most one context, not {len(asked)} of them")
    from hybridkit.cost.match import match, match_steps
    from hybridkit.cost.summary import FLOPS_SCHEMA
    from hybridkit.recipe.files import dump

    target, other = asked
    found = (
        [match_steps(target.loaded, other.loaded)]
        if measure == "training"
        else match(target.plan, other.loaded, measure, target.settings)
    )
    if as_json:
        matches = [candidate.summary() for candidate in found]
        say(format_json({"schema": FLOPS_SCHEMA, "measure": measure, "matches": matches}))
        return
    unit = "FLOPs of training" if measure == "training" else measure
    say(f"# {target.name} has {float(found[0].target):.6g} {unit}; {other.name} with")
    for candidate in found:
        say(f"#   {candidate}")
    say(dump(found[0].loaded.recipe), end="")


def _verify(asked: Sequence[CostRequest], as_json: bool) -> None:
    from hybridkit.cost.cross_check import BLIND_SPOTS, verify
    from hybridkit.cost.summary import FLOPS_SCHEMA

    rows = {request.name: verify(request.plan) for request in asked}
    if as_json:
        recipes = [{"recipe": name, "layers": [row._asdict() for row in found]} for name, found in rows.items()]
        say(format_json({"schema": FLOPS_SCHEMA, "verify": recipes, "blind_spots": BLIND_SPOTS}))
        return
    from hybridkit.report.flops import print_check

    print_check(rows, BLIND_SPOTS)
