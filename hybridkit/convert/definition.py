"""What a conversion is: a teacher, a student's recipe and its stages, in a folder. Nothing is trained here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hybridkit.convert.keep import kept_mixers
from hybridkit.convert.keep_auto import is_auto, with_kept
from hybridkit.convert.stages import MAPPED, STAGES, PlannedStage, planned
from hybridkit.convert.teacher import TeacherRun, with_tokens
from hybridkit.model.loading import plan as compile_recipe
from hybridkit.recipe.files import Loaded
from hybridkit.runs.run import Run
from hybridkit.training.used_plugins import training_code

RECORD = "conversion.json"


class Conversion(NamedTuple):
    """A conversion whose parts fit together."""

    folder: Path
    teacher: TeacherRun
    loaded: Loaded  # the student's recipe, with the teacher's tokens
    stages: list[PlannedStage]

    @property
    def record(self) -> Path:
        """The file that says what is converted."""
        return self.folder / RECORD

    def said(self) -> dict[str, Any]:
        """What must be the same when it is resumed, beside the teacher and what each stage's own run checks."""
        stages = [dict(stage.said()) for stage in self.stages]
        return {"keep": self.keep, "pattern": compile_recipe(self.loaded).pattern, "stages": stages}

    @property
    def code(self) -> dict[str, bytes]:
        """The files of the plug-ins that the student is trained with, by name."""
        return training_code(compile_recipe(self.loaded).entries, self.loaded.recipe, self.loaded.registry)

    @property
    def keep(self) -> Sequence[int] | str | None:
        """What the recipe says of mixers that are kept."""
        assert self.loaded.recipe.convert
        return self.loaded.recipe.convert.keep

    @property
    def mapped(self) -> Run:
        """The student before the first stage."""
        return Run(self.folder / STAGES / MAPPED)


def plan_conversion(teacher: TeacherRun, loaded: Loaded, folder: Path) -> Conversion:
    """The student and its stages. Raises UserError where they do not fit the teacher; no text is read."""
    assert loaded.recipe.convert
    student, keep = with_tokens(loaded, teacher), loaded.recipe.convert.keep
    if keep is not None and not is_auto(keep):
        student = with_kept(student, teacher.plan, kept_mixers(keep, teacher.plan))
    return Conversion(folder, teacher, student, planned(student, teacher.plan, folder))
