"""`hybridkit convert`: a trained transformer becomes a recipe's hybrid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybridkit.cli.options import CheckpointName, Json, Overrides, Plugins, RecipeName
from hybridkit.system.errors import UserError
from hybridkit.system.strict_json import format_json
from hybridkit.system.terminal import say

if TYPE_CHECKING:
    from hybridkit.recipe.files import Loaded


def convert(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The teacher: a run folder, a folder of transformers, or NAME/NAME.")
    ],
    recipe: RecipeName,
    overrides: Overrides = [],
    run: Annotated[Path | None, typer.Option(help="The folder; default: runs/ and the recipe's name.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the conversion in the folder stopped.")] = False,
    ranks: Annotated[
        int | None,
        typer.Option(min=1, max=1 << 20, help="Processes to start on this machine, for engines that run in several."),
    ] = None,
    evaluate: Annotated[bool, typer.Option(help="Measure the teacher, and the student after every stage.")] = True,
    checkpoint: CheckpointName = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what each stage would take, and do nothing.")] = False,
    as_json: Json = False,
    plugin: Plugins = [],
) -> None:
    """Make a trained model a recipe's, stage by stage (section `convert`). The folder is the run of the last stage."""
    from hybridkit.recipe.files import run_name
    from hybridkit.runs.run import load_recipe
    from hybridkit.training.launch import launch

    folder = run or Path("runs") / run_name(recipe)
    mapped = folder / "stages" / "0-mapped"  # which keeps the conversion's plug-ins
    # before torch is imported: mistakes in a recipe answer at once
    loaded = load_recipe(recipe, overrides, mapped if resume and mapped.is_dir() else None)
    if loaded.recipe.convert is None:
        raise UserError(f"{recipe}: has no section `convert`, such as convert: {{preset: radlads}}")
    if dry_run:
        return _estimate(model, loaded, ranks or 1, checkpoint, as_json)
    if folder.is_dir() and not resume and (folder / "conversion.json").is_file():
        raise UserError(f"{folder} holds a conversion; go on with it with --resume, or name another folder with --run")
    launch.begin(loaded.recipe, ranks, None, loaded.registry)
    with launch.as_rank() as rank:
        _convert(model, loaded, folder, resume, evaluate, checkpoint, quiet=as_json or rank > 0)
    if rank == 0:
        _report(folder, as_json)


def _estimate(model: str, loaded: Loaded, ranks: int, checkpoint: str | None, as_json: bool) -> None:
    from tempfile import TemporaryDirectory

    from hybridkit.convert.estimate import estimate_conversion

    with TemporaryDirectory() as scratch:
        found = estimate_conversion(model, loaded, ranks, Path(scratch), checkpoint)
    if as_json:
        say(format_json(found))
        return
    from hybridkit.report.dry_run import print_stages

    print_stages(found)


def _convert(
    model: str, loaded: Loaded, folder: Path, resume: bool, evaluate: bool, checkpoint: str | None, quiet: bool
) -> None:
    from hybridkit.convert.conversion import run_conversion as start
    from hybridkit.convert.stage_evaluation import Measuring
    from hybridkit.report.mapping import print_choice, print_mapping
    from hybridkit.report.progress import reporter, watching
    from hybridkit.training.reporter import Silent

    start(
        model,
        loaded,
        folder,
        resume=resume,
        reporter=Silent if quiet else reporter,
        measure=Measuring(watching) if evaluate else None,
        mapped=(lambda layers, plan: None) if quiet else print_mapping,
        told=(lambda choice: None) if quiet else print_choice,
        checkpoint=checkpoint,
    )


def _report(folder: Path, as_json: bool) -> None:
    import json

    from hybridkit.convert.stage_evaluation import stage_evaluations

    found = stage_evaluations(folder)
    record = json.loads((folder / "conversion.json").read_text(encoding="utf-8"))
    if as_json:
        say(format_json({"run": str(folder), **record, "evaluations": found}))
        return
    if found:
        from hybridkit.report.convert import print_conversion

        print_conversion(found)
    from hybridkit.report.run_page import write_run_page

    say(f"report: {write_run_page([folder], folder / 'report.html')}")
    say(f"{folder}: the converted model, a run like any other")
