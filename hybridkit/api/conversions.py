"""Conversions from Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybridkit.api.runs import RecipeLike, TrainedRun, load_given_recipe, run_folder
from hybridkit.runs.run import Which


def convert_model(
    model: str | Path | TrainedRun,
    recipe: RecipeLike,
    run: str | Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    evaluate: bool = False,
    checkpoint: Which = None,
    quiet: bool = False,
) -> TrainedRun:
    """Make a trained model a recipe's, in this process: `convert_model("runs/teacher", "convert/swax")`.

    `model`: a run, of which `checkpoint` is a step, "best" or "newest", or a folder of transformers. `recipe`, `run`,
    `overrides` and `resume` are those of `train`; the recipe has a section `convert` (docs/convert.md).
    `evaluate`: measure after every stage, into `run`/evaluations.
    Returns the run of the last stage. Raises UserError where model, recipe and folder do not fit.
    """
    from hybridkit.convert.conversion import run_conversion as start
    from hybridkit.convert.stage_evaluation import Measuring
    from hybridkit.report.progress import reporter
    from hybridkit.training.reporter import Silent

    source = str(model.path if isinstance(model, TrainedRun) else model)
    folder, loaded = run_folder(recipe, run), load_given_recipe(recipe, overrides or {})
    measure = Measuring() if evaluate else None
    told = Silent if quiet else reporter
    start(source, loaded, folder, resume=resume, reporter=told, measure=measure, checkpoint=checkpoint)
    return TrainedRun(folder)
