"""`hybridkit bench`: how fast a recipe runs here, beside the machine's ceilings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hybridkit.cli.options import Json, Overrides, Plugins, size_option
from hybridkit.system.choices import PrecisionChoice
from hybridkit.system.strict_json import format_json
from hybridkit.system.terminal import say


def bench(
    what: Annotated[str, typer.Argument(metavar="RECIPE|RUN", help="A recipe, a shipped one's name, or a run folder.")],
    overrides: Overrides = [],
    sequence: Annotated[
        str, typer.Option(metavar="N", help="Tokens of a row, k allowed; default: data.sequence.")
    ] = "",
    batch: Annotated[
        int | None, typer.Option(min=1, max=1 << 20, help="Rows; default: those of a micro-batch in training.")
    ] = None,
    window: Annotated[str, typer.Option(metavar="W", help="Of every windowed block; default: its largest.")] = "",
    precision: Annotated[PrecisionChoice | None, typer.Option(help="Default: the recipe's train.precision.")] = None,
    repeat: Annotated[int, typer.Option(min=1, max=1000, help="Repetitions that each median is of.")] = 5,
    as_json: Json = False,
    plugin: Plugins = [],
) -> None:
    """Measure this machine's ceilings, then forward, training step, prefill and decode, and each layer alone."""
    sizes = {
        name: size_option(f"--{name}", said) for name, said in (("sequence", sequence), ("window", window)) if said
    }
    from hybridkit.runs.run import Run, load_recipe

    run = Path(what)  # mistakes in a recipe are reported before torch is imported
    loaded = load_recipe(str(Run(run).recipe_file) if Run(run).begun else what, overrides)
    from hybridkit.bench.benchmark import job, run_benchmark

    asked = job(what, loaded, batch=batch, precision=precision, **sizes)
    found = run_benchmark(asked, repeat, (lambda part: None) if as_json else _tell)
    if as_json:
        say(format_json(found))
        return
    from hybridkit.report.bench import print_bench

    print_bench(found)


def _tell(part: str) -> None:
    """Lines, not a live bar, whose redrawing would be measured, too."""
    say(f"measuring {part}", file=sys.stderr)
