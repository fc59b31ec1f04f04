"""`hybridkit show`: a recipe's stack, or the curves of runs."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hybridkit.cli.options import Json, Plugins
from hybridkit.system.choices import XAxis
from hybridkit.system.errors import UserError
from hybridkit.system.strict_json import format_json
from hybridkit.system.terminal import say


def show(
    what: Annotated[
        list[str], typer.Argument(metavar="RECIPE [KEY=VALUE]... | RUN...", help="One recipe, or run folders.")
    ],
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the stack, or the runs' curves: .png or .svg.")
    ] = None,
    over: Annotated[XAxis, typer.Option(help="What the curves are drawn over.")] = "tokens",
    as_json: Json = False,
    plugin: Plugins = [],
) -> None:
    """Draw a recipe's stack with its parameters and canonical pattern, or compare the training curves of runs."""
    if plot:
        from hybridkit.report.figure import check_plot_file

        check_plot_file(plot)
    from hybridkit.runs.run import Run, load_recipe

    if Run(what[0]).begun:
        _runs([Path(run) for run in what], plot, over, as_json)
        return
    recipe, *others = what
    from hybridkit.recipe.files import sort_words

    names, overrides = sort_words(others)
    if names:
        raise UserError(
            f"show takes run folders, or one recipe with KEY=VALUE changes: {recipe} is not a run folder, and"
            f" {names[0]} is not a change"
        )

    loaded = load_recipe(recipe, overrides)  # before torch is imported: mistakes in a recipe answer at once
    from hybridkit.model.loading import plan
    from hybridkit.report.show import outline, print_outline

    drawn = outline(loaded.path, plan(loaded))
    say(format_json(drawn)) if as_json else print_outline(drawn)
    if plot:
        from hybridkit.report.figure import save_figure
        from hybridkit.report.recipe_pictures import stack_picture

        save_figure(stack_picture(loaded), plot)


def _runs(runs: list[Path], plot: Path | None, over: XAxis, as_json: bool) -> None:
    """The curves of runs; of a single one, its stack first."""
    from hybridkit.report.curves import curves_of, draw_curves, print_curves

    curves = curves_of(runs)
    stack = _stack(runs[0]) if len(runs) == 1 else None
    if as_json:
        say(format_json({"runs": [curve.summary() for curve in curves], **({"stack": stack} if stack else {})}))
    else:
        if stack:
            from hybridkit.report.show import print_outline

            print_outline(stack)
            say()
        print_curves(curves)
    if plot:
        from hybridkit.report.figure import save_figure

        costs = []
        if over == "flops":
            from hybridkit.report.run_costs import step_flops
            from hybridkit.runs.run import Run

            costs = [step_flops(Run(run)) for run in runs]
        save_figure(draw_curves(curves, over, costs), plot)


def _stack(run: Path) -> dict[str, Any] | None:
    """The stack of a run's recipe; None, with a line that says why, where the recipe cannot be read here."""
    from hybridkit.model.loading import plan
    from hybridkit.report.show import outline
    from hybridkit.runs.run import Run

    try:
        loaded = Run(run).recipe
        return outline(loaded.path, plan(loaded))
    except UserError as error:
        say(f"hybridkit: the stack is not shown: {error}", file=sys.stderr)
        return None
