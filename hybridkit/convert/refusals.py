"""Conversions that must not begin or go on: each function raises UserError, which says why."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hybridkit.convert.definition import RECORD, Conversion
from hybridkit.convert.keep_auto import is_auto
from hybridkit.convert.recorded import RecordedConversion, read_recorded
from hybridkit.convert.stages import KEPT, STAGES, PlannedStage
from hybridkit.data.recipe_data import open_feed
from hybridkit.evaluation.probes import probes_of
from hybridkit.recipe.files import Loaded
from hybridkit.recipe.rules_version import CURRENT_RULES
from hybridkit.runs.plugin_copies import hashes, refuse_changed
from hybridkit.runs.run import Run
from hybridkit.system.errors import UserError
from hybridkit.training.freeze import check_freeze
from hybridkit.training.launch.launch import check_launch
from hybridkit.training.ranks import Place, place
from hybridkit.training.refusals import changes_of, refuse_folder, refuse_unknown_metrics


def check_section(loaded: Loaded) -> None:
    """Raises UserError for a recipe without a section `convert`, or with `train.from`."""
    if not loaded.recipe.convert:
        raise UserError(f"{loaded.path}: has no section `convert`, such as convert: {{preset: radlads}}")
    if loaded.recipe.train.from_:
        raise UserError("train.from: a conversion begins with its teacher's weights; leave it out")


def check_stage(stage: PlannedStage) -> None:
    """Raises UserError for a stage that cannot be trained here, or not go on from where it was stopped."""
    recipe, registry = stage.loaded.recipe, stage.loaded.registry
    check_planned(stage, (place(os.environ) or Place(0, 1)).ranks)
    with _naming(stage):
        open_feed(recipe.data, recipe.train, registry=registry)
        stage_changes(stage)


def check_planned(stage: PlannedStage, ranks: int) -> None:
    """Raises UserError for a stage that its recipe alone, without a text, shows to be wrong for so many ranks."""
    recipe = stage.loaded.recipe
    with _naming(stage):
        check_launch(recipe, ranks, stage.loaded.registry)
        check_freeze(stage.plan, recipe.train.freeze, recipe.train.steps)
        if (k := stage.stage.top_k) and k > (vocab := stage.plan.dims.vocab):
            raise UserError(f"top_k: {k:,}: the vocabulary has {vocab:,} tokens; leave it out for all of them")
        probes = probes_of(stage.loaded)
        for probe in probes:
            probe.check(stage.plan)
        refuse_unknown_metrics(recipe, [name for probe in probes for name in probe.metrics()])


@contextmanager
def _naming(stage: PlannedStage) -> Iterator[None]:
    """Errors within name the stage."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"convert.stages.{stage.place}: {error}") from error


def stage_changes(stage: PlannedStage) -> list[str]:
    """What the recipe changes of a stage that has begun, in words. Raises UserError for what must not change."""
    if not stage.run.recipe_file.is_file():
        return []
    recipe = stage.loaded.recipe
    model = recipe.model.model_copy(update={"vocab": stage.plan.dims.vocab})
    sized = recipe.model_copy(update={"model": model, "rules": CURRENT_RULES})
    return changes_of(stage.run, sized, stage.loaded.registry)


def refuse_begun_conversion(folder: Path, resume: bool) -> None:
    """Raises UserError for a folder that holds another run, or a conversion although `resume` is false."""
    begun = (folder / RECORD).is_file()
    if begun and not resume:
        raise UserError(f"{folder} holds a conversion; go on with it with --resume, or name another folder with --run")
    if not begun and Run(folder).begun:
        raise UserError(f"{folder} holds a run that is no conversion; name another folder with --run")
    if not begun and not (folder / STAGES).is_dir():
        refuse_folder(Run(folder))


def refuse_other(conversion: Conversion) -> None:
    """Raises UserError for a folder whose conversion has another teacher, another student or other stages."""
    if not conversion.record.is_file():
        return
    said, teacher = read_recorded(conversion.record, RecordedConversion), conversion.teacher
    if said.teacher.sha256 != teacher.sha256:
        raise UserError(
            f"{conversion.folder} is a conversion of another teacher (step {said.teacher.step:,}, weights of"
            f" sha256 {said.teacher.sha256}; {teacher.run.path} has {teacher.sha256} at step {teacher.step:,});"
            " name its checkpoint with --checkpoint, or another folder with --run"
        )
    if said.teacher.fingerprint not in (None, teacher.fingerprint):  # older records do not say it
        raise UserError(
            f"{conversion.folder} is a conversion of another teacher: {teacher.run.path} has the same weights, and"
            " another recipe, tokenizer or plug-in than when it began; put them back, or name another folder with --run"
        )
    if said.code is not None:  # older records do not say it
        remedy = f"the run's own copies are in {conversion.mapped.path}/plugins; or name another folder with --run"
        refuse_changed(str(conversion.folder), said.code, hashes(conversion.code), remedy)
    now = conversion.said()
    for key, name in (("keep", "convert.keep"), ("pattern", "pattern")):
        before = getattr(said, key)
        if key in said.model_fields_set and before != now[key]:  # older records do not say `keep`
            raise UserError(
                f"{conversion.folder} was begun with another {name} ({_or_none(before)}; now {_or_none(now[key])}),"
                " which must not change on --resume; name another folder with --run"
            )
    stages = [stage.model_dump(exclude_unset=True) for stage in said.stages]
    if stages != now["stages"]:
        differ = _difference(stages, now["stages"])
        raise UserError(
            f"{conversion.folder} was begun with other stages ({differ}): only their steps and rates may change on"
            " --resume; name another folder with --run"
        )
    _refuse_longer(conversion)


def _difference(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> str:
    """Their names, or where these are the same the first field that differs."""
    names = [", ".join(one["name"] for one in stages) for stages in (old, new)]
    if names[0] != names[1]:
        return f"{names[0]}; now {names[1]}"
    differ = [(was, now, key) for was, now in zip(old, new, strict=True) for key in now if was.get(key) != now[key]]
    was, now, key = differ[0]
    return f"{now['name']}: {key}: {_or_none(was.get(key))}; now {_or_none(now[key])}"


def _refuse_longer(conversion: Conversion) -> None:
    """Raises UserError for more steps of a stage from whose weights the next one has begun, or `keep: auto` chosen."""
    begun = [stage.run.recipe_file.is_file() for stage in conversion.stages]
    if is_auto(conversion.keep):
        begun[1] |= Run(conversion.folder / STAGES / KEPT).begun
    for stage, later in zip(conversion.stages, begun[1:], strict=False):
        if later and not stage.done:
            _refuse_damaged(stage)
            raise UserError(
                f"convert.stages.{stage.place}.steps: stage {stage.name} would go on, and the next one has begun"
                f" with its weights; set the steps as they were, or name another folder with --run"
            )


def _refuse_damaged(stage: PlannedStage) -> None:
    """Raises UserError for a stage that was done, and whose last checkpoint is damaged or missing."""
    skipped, steps = stage.run.newest().skipped, stage.run.read_recipe().recipe.train.steps
    if skipped or stage.loaded.recipe.train.steps <= steps:
        why = "".join(f"\n  {name}: {reason}" for name, reason in skipped.items()) or " is missing"
        raise UserError(
            f"{stage.run.path}: the last checkpoint of stage {stage.name}, with whose weights the next one began,"
            f"{' is damaged:' if skipped else ''}{why}\nput it back, or name another folder with --run"
        )


def _or_none(said: Any) -> str:
    return "none" if said in (None, []) else str(said)
