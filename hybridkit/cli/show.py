"""`hybridkit show`: a recipe's stack, or the curves of runs."""

from pathlib import Path
from typing import Annotated

import typer

from hybridkit.cli.options import Json, Plugins
from hybridkit.runs.run import Run
from hybridkit.system.errors import UserError
from hybridkit.system.strict_json import format_json
from hybridkit.system.terminal import say


def show(
    what: Annotated[
        list[str], typer.Argument(metavar="RECIPE [KEY=VALUE]... | RUN...", help="One recipe, or run folders.")
    ],
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the runs' curves: .png or .svg.")] = None,
    as_json: Json = False,
    plugin: Plugins = [],
) -> None:
    """Draw a recipe's stack with its parameters and canonical pattern, or compare the training curves of runs."""
    if Run(what[0]).begun or plot:
        from hybridkit.report.curves import curves_of, draw_curves, print_curves

        curves = curves_of([Path(run) for run in what])
        if plot:
            draw_curves(curves, plot)
        say(format_json({"runs": [curve.summary() for curve in curves]})) if as_json else print_curves(curves)
        return
    recipe, *others = what
    from hybridkit.recipe.files import sort_words
    from hybridkit.runs.run import load_recipe

    names, overrides = sort_words(others)
    if names:
        raise UserError(
            f"show takes one recipe with KEY=VALUE changes, or run folders: {recipe} is none, and {names[0]} no change"
        )

    loaded = load_recipe(recipe, overrides)  # before torch is imported: mistakes in a recipe answer at once
    from hybridkit.model.loading import plan
    from hybridkit.report.show import outline, print_outline

    drawn = outline(loaded.path, plan(loaded))
    say(format_json(drawn)) if as_json else print_outline(drawn)
