"""A trained model becomes a recipe's: mapped weights, then one stage after another, each an ordinary run.

The folder of a conversion is the run of its last stage. Beside that run's own files it holds

    conversion.json   what is converted: the teacher's hash, the stages, what each layer began with
    teacher/          the teacher as a run, where it came from transformers
    stages/0-mapped   the student before the first stage, a run at step 0
    stages/N-NAME     the runs of the other stages
    evaluations/      what was measured of the teacher and after every stage

Every stage starts from the run before it (`train.from`), and is resumed like any run.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hybridkit.convert.auto import CHOICE, choose_and_write, chosen_mixers, is_auto, with_kept
from hybridkit.convert.keep import Choice, kept_mixers
from hybridkit.convert.mapping import MappedLayer, map_weights
from hybridkit.convert.stages import KEPT, MAPPED, STAGES, PlannedStage, planned
from hybridkit.convert.teacher import TeacherRun, open_teacher, with_tokens
from hybridkit.data.open import open_feed
from hybridkit.evaluation.probes import probes_of
from hybridkit.hub.importing import whole_folder, write_run
from hybridkit.model.loading import plan as compile_recipe
from hybridkit.model.plan import Plan
from hybridkit.recipe.files import Loaded
from hybridkit.recipe.rules import CURRENT_RULES
from hybridkit.runs.run import Run
from hybridkit.runs.weights import weights_of
from hybridkit.system.errors import UserError
from hybridkit.system.files import write_whole
from hybridkit.system.links import check_tree
from hybridkit.system.lock import Lock
from hybridkit.system.strict_json import format_json
from hybridkit.training.engines.local.engine import initial_model
from hybridkit.training.launch.launch import check_launch
from hybridkit.training.ranks import Place, place
from hybridkit.training.refusals import changes_of
from hybridkit.training.reporter import Reporter
from hybridkit.training.state import load_train_state
from hybridkit.training.trainer import run_training

RECORD = "conversion.json"
POLL = 0.2  # seconds
TRAINED = {"new": "the new mixers", "mixers": "all mixers", "all": "all weights"}


class Conversion(NamedTuple):
    """What is to be done, checked."""

    folder: Path
    teacher: TeacherRun
    loaded: Loaded  # the student's recipe, with the teacher's tokens
    stages: list[PlannedStage]

    @property
    def record(self) -> Path:
        """The file that says what is converted."""
        return self.folder / RECORD

    @property
    def keep(self) -> Sequence[int] | str | None:
        """What the recipe says of mixers that are kept."""
        assert self.loaded.recipe.convert
        return self.loaded.recipe.convert.keep

    @property
    def mapped(self) -> Run:
        """The student before the first stage."""
        return Run(self.folder / STAGES / MAPPED)


Measure = Callable[[Conversion, Run, str], Mapping[str, Any]]  # what is to be kept of a model, under its name


def run_conversion(
    source: str,
    loaded: Loaded,
    folder: Path,
    *,
    resume: bool,
    reporter: Callable[[], Reporter],
    measure: Measure | None = None,
    mapped: Callable[[list[MappedLayer], Plan], None] = lambda layers, plan: None,
    told: Callable[[Choice], None] = lambda choice: None,
) -> Conversion:
    """Convert the model that `source` names into a recipe, in a folder.

    `reporter` makes what shows a stage. On rank 0, `mapped` is told what the layers of the student's plan began with,
    and `measure` is asked about the teacher, the mapped student and that of every stage; what it says is kept under
    their names. `told` is given the table of `keep: auto`.
    Raises UserError, before anything is trained, where teacher, recipe and folder do not fit, or another teacher or
    other stages are resumed.
    """
    lead = (place(os.environ) or Place(0, 1)).rank == 0
    with ExitStack() as stack:
        if lead:
            _refuse_begun(folder, resume)
            stack.enter_context(_held(folder))
            conversion = open_conversion(source, loaded, folder)
            mapped(*_prepare(conversion))
        else:
            _wait(folder / RECORD)
            conversion = open_conversion(source, loaded, folder)
        measured = _in_turn(conversion, lead, measure)
        measured(conversion.teacher.run, "teacher")
        measured(conversion.mapped, MAPPED)
        for number in range(len(conversion.stages)):
            stage = conversion.stages[number]
            _train(conversion, stage, reporter())
            measured(stage.run, stage.name)
            if number == 0 and is_auto(conversion.keep):
                _choose(conversion, lead, reporter(), told)
                conversion = open_conversion(source, loaded, folder)
    return conversion


def open_conversion(source: str, loaded: Loaded, folder: Path) -> Conversion:
    """Check everything that can be checked before training. Raises UserError."""
    recipe = loaded.recipe
    if not recipe.convert:
        raise UserError(f"{loaded.path}: has no section `convert`, such as convert: {{preset: radlads}}")
    if recipe.train.from_:
        raise UserError("train.from: a conversion begins with its teacher's weights; leave it out")
    teacher = open_teacher(source, folder / "teacher")
    student = with_tokens(loaded, teacher)
    keep = recipe.convert.keep
    if keep is not None and not is_auto(keep):
        student = with_kept(student, teacher.plan, kept_mixers(keep, teacher.plan))
    stages = planned(student, teacher.plan, folder)
    conversion = Conversion(folder, teacher, student, stages)
    for stage in stages:
        _check(stage)
    if conversion.record.is_file():
        _refuse_other(conversion)
    return conversion


def _check(stage: PlannedStage) -> None:
    """Raises UserError where a stage cannot be trained here, or not go on."""
    ranks = (place(os.environ) or Place(0, 1)).ranks
    try:
        check_launch(stage.loaded.recipe, ranks, stage.loaded.registry)
        open_feed(stage.loaded.recipe.data, stage.loaded.recipe.train, registry=stage.loaded.registry)
        for probe in probes_of(stage.loaded):
            probe.check(stage.plan)
        if stage.run.recipe_file.is_file():
            vocab = stage.plan.dims.vocab
            own = stage.loaded.recipe
            sized = own.model_copy(
                update={"model": own.model.model_copy(update={"vocab": vocab}), "rules": CURRENT_RULES}
            )
            changes_of(stage.run, sized, stage.loaded.registry)
    except UserError as error:
        raise type(error)(f"convert.stages.{stage.place}: {error}") from error


def _refuse_begun(folder: Path, resume: bool) -> None:
    begun = (folder / RECORD).is_file()
    if begun and not resume:
        raise UserError(f"{folder} holds a conversion; go on with it with --resume, or name another folder with --run")
    if not begun and Run(folder).begun:
        raise UserError(f"{folder} holds a run that is no conversion; name another folder with --run")


def _refuse_other(conversion: Conversion) -> None:
    """Raises UserError where the folder holds a conversion of another teacher, or with other stages."""
    said, teacher = json.loads(conversion.record.read_text(encoding="utf-8")), conversion.teacher
    if said["teacher"]["sha256"] != teacher.sha256:
        raise UserError(
            f"{conversion.folder} is a conversion of another teacher (weights of sha256 {said['teacher']['sha256']};"
            f" {teacher.run.path} has {teacher.sha256}); name another folder with --run"
        )
    now = [dict(stage.said()) for stage in conversion.stages]
    if said["stages"] != now:
        old, new = (", ".join(one["name"] for one in stages) for stages in (said["stages"], now))
        raise UserError(
            f"{conversion.folder} was begun with other stages ({old}; now {new}): only their steps and rates may change"
            " on --resume; name another folder with --run"
        )
    begun = [stage.run.recipe_file.is_file() for stage in conversion.stages]
    for stage, later in zip(conversion.stages, begun[1:], strict=False):
        if later and not _done(stage):
            raise UserError(
                f"convert.stages.{stage.place}.steps: stage {stage.name} would go on, and the next one has begun"
                f" with its weights; set the steps as they were, or name another folder with --run"
            )


def _prepare(conversion: Conversion) -> tuple[list[MappedLayer], Plan]:
    """The student's first weights, and the record, unless they are there. What its layers began with, and its plan."""
    folder, teacher, loaded = conversion.folder, conversion.teacher, conversion.loaded
    (folder / STAGES).mkdir(exist_ok=True)
    plan = compile_recipe(loaded)
    if conversion.record.is_file() and conversion.mapped.recipe_file.is_file():
        said = json.loads(conversion.record.read_text(encoding="utf-8"))
        return [MappedLayer(**layer) for layer in said["layers"]], plan
    student = initial_model(plan, loaded.recipe.train.seed)
    layers = map_weights(teacher.load(), student)
    if not conversion.mapped.begun:
        own = loaded.recipe.model_copy(update={"rules": CURRENT_RULES, "convert": None})
        with whole_folder(conversion.mapped.path) as part:
            write_run(Run(part), own, plan, teacher.tokenizer, weights_of(student), teacher.data)
    record = {
        "teacher": {"run": str(teacher.run.path), "step": teacher.step, "sha256": teacher.sha256},
        "pattern": plan.pattern,
        "stages": [dict(stage.said()) for stage in conversion.stages],
        "layers": [layer._asdict() for layer in layers],
    }
    write_whole(conversion.record, json.dumps(record, indent=1).encode())
    return layers, plan


def _train(conversion: Conversion, stage: PlannedStage, reporter: Reporter) -> None:
    if _done(stage):
        return
    reporter.message(
        f"stage {stage.name}: {stage.loaded.recipe.train.steps:,} steps, training {TRAINED[stage.stage.trains]}"
    )
    objective = stage.objective(conversion.teacher)
    callbacks = probes_of(stage.loaded)
    run_training(stage.loaded, stage.run.path, resume=True, reporter=reporter, callbacks=callbacks, objective=objective)


def _choose(conversion: Conversion, lead: bool, reporter: Reporter, told: Callable[[Choice], None]) -> None:
    """Under `keep: auto`, after the first stage, on rank 0."""
    folder = conversion.folder
    if lead and chosen_mixers(folder) is None:
        aligned, kept = conversion.stages[0].run, Run(folder / STAGES / KEPT)
        told(choose_and_write(conversion.loaded, conversion.teacher, aligned, kept, folder, reporter))
    _wait(folder / CHOICE)


def _done(stage: PlannedStage) -> bool:
    """Whether the run of a stage has made its last step."""
    found = stage.run.newest().checkpoint
    if found is None:
        return False
    return found.step >= stage.loaded.recipe.train.steps or load_train_state(found).stopped is not None


def _in_turn(conversion: Conversion, lead: bool, measure: Measure | None) -> Callable[[Run, str], None]:
    """Measure on rank 0, once; the others wait here, since engines give up on a rank that is late for a step."""

    def measured(run: Run, name: str) -> None:
        done = evaluation_file(conversion.folder, name)
        if measure and lead and not done.is_file():
            done.parent.mkdir(exist_ok=True)
            write_whole(done, format_json(measure(conversion, run, name)).encode())
        if measure:
            _wait(done)

    return measured


def evaluation_file(folder: Path, name: str) -> Path:
    """What was measured of the teacher or a stage."""
    return folder / "evaluations" / f"{name}.json"


def _wait(file: Path) -> None:
    while not file.is_file():
        time.sleep(POLL)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The folder, made and locked; removed again where it is new and the conversion did not begin."""
    new = not folder.exists()
    try:
        (folder / STAGES).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"--run {folder}: a file is in the way; name a folder") from error
    check_tree(folder)
    try:
        with Lock(folder / STAGES):
            yield
    finally:
        if new and not (folder / RECORD).is_file():
            shutil.rmtree(folder)
