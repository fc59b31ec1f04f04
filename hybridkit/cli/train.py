"""`hybridkit train`: a recipe becomes a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybridkit.cli.options import Json, Overrides, Plugins, RecipeName
from hybridkit.system.errors import UserError
from hybridkit.system.strict_json import format_json
from hybridkit.system.terminal import say

if TYPE_CHECKING:
    from hybridkit.recipe.files import Loaded


def train(
    recipe: RecipeName,
    overrides: Overrides = [],
    run: Annotated[Path | None, typer.Option(help="The run folder; default: runs/ and the recipe's name.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in the folder stopped.")] = False,
    ranks: Annotated[
        int | None,
        typer.Option(min=1, max=1 << 20, help="Processes to start on this machine, for engines that run in several."),
    ] = None,
    hostfile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Hosts to start ranks on, through the engine's launcher.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and do nothing.")] = False,
    as_json: Json = False,
    plugin: Plugins = [],
) -> None:
    """Train a recipe; write weights, metrics and checkpoints to a run folder."""
    from hybridkit.recipe.files import run_name
    from hybridkit.runs.run import Run, load_recipe
    from hybridkit.training.launch import launch

    folder = run or Path("runs") / run_name(recipe)
    # before torch is imported: mistakes in a recipe answer at once
    loaded = load_recipe(recipe, overrides, folder if resume and folder.is_dir() else None)
    if as_json and not dry_run:
        raise UserError("--json goes with --dry-run; a run's figures are in its metrics.jsonl")
    if dry_run:
        launch.check_launch(loaded.recipe, ranks or 1, loaded.registry)
        return _estimate(loaded, ranks or 1, as_json)
    from hybridkit.training.refusals import refuse_folder

    refuse_folder(Run(folder))
    launch.begin(loaded.recipe, ranks, hostfile, loaded.registry)
    with launch.as_rank() as rank:
        from hybridkit.evaluation.probes import probes_of
        from hybridkit.report.progress import reporter
        from hybridkit.report.run_summary import RunSummary
        from hybridkit.training import ranks as launched
        from hybridkit.training.reporter import Silent
        from hybridkit.training.trainer import run_training as start

        told = reporter() if rank == 0 else Silent()
        summary = RunSummary(loaded, launched.count(), told.message)
        start(loaded, folder, resume=resume, reporter=told, callbacks=[summary, *probes_of(loaded)])


def _estimate(loaded: Loaded, ranks: int, as_json: bool) -> None:
    from hybridkit.evaluation.probes import probes_of
    from hybridkit.training.estimate import estimate

    found = estimate(loaded, ranks, probes_of(loaded))
    if as_json:
        say(format_json(found))
        return
    from hybridkit.report.dry_run import print_estimate

    print_estimate(found)
