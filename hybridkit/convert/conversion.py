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
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from hybridkit.convert.definition import RECORD, Conversion, plan_conversion
from hybridkit.convert.keep import Choice
from hybridkit.convert.keep_auto import CHOICE, choose_and_write, chosen_mixers, is_auto
from hybridkit.convert.mapping import MappedLayer, map_weights
from hybridkit.convert.recorded import RecordedConversion, check_layers, read_recorded
from hybridkit.convert.refusals import check_section, check_stage, refuse_begun_conversion, refuse_other, stage_changes
from hybridkit.convert.stages import KEPT, MAPPED, STAGES, TRAINED, PlannedStage
from hybridkit.convert.teacher import open_teacher
from hybridkit.evaluation.probes import probes_of
from hybridkit.hub.importing import write_run
from hybridkit.model.loading import plan as compile_recipe
from hybridkit.model.plan import Plan
from hybridkit.recipe.files import Loaded
from hybridkit.recipe.rules_version import CURRENT_RULES
from hybridkit.runs.manifest import WEIGHTS
from hybridkit.runs.plugin_copies import hashes
from hybridkit.runs.run import Run, Which
from hybridkit.runs.weights import weights_of
from hybridkit.system.errors import UserError
from hybridkit.system.files import whole_folder, write_whole
from hybridkit.system.links import check_tree
from hybridkit.system.lock import Lock
from hybridkit.system.strict_json import format_json
from hybridkit.training.engines.local.engine import initial_model
from hybridkit.training.ranks import Place, place
from hybridkit.training.reporter import Reporter
from hybridkit.training.trainer import run_training

POLL = 0.2  # seconds


class Measure(Protocol):
    """Gives what is to be kept of a model, under its name."""

    def check(self, conversion: Conversion) -> None:
        """Raises UserError, before anything is trained, for a question that suits neither teacher nor student."""

    def asked(self, conversion: Conversion) -> str:
        """A hash of the questions and of the text that they are about."""

    def __call__(self, conversion: Conversion, run: Run, name: str) -> Mapping[str, Any]: ...


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
    checkpoint: Which = None,
) -> Conversion:
    """Convert the model that `source` names into a recipe, in a folder.

    `checkpoint` is the teacher's, where it is a run. `reporter` makes the object that shows the progress of a stage. On
    rank 0, `mapped` is told what the layers of the student's plan began with, and `measure` is called with the teacher,
    the mapped student and the student after every stage; its results are written under their names. `told` is given
    the table of `keep: auto`.

    Raises UserError, before anything is trained, where teacher, recipe and folder do not fit, or another teacher or
    other stages are resumed.
    """
    lead = (place(os.environ) or Place(0, 1)).rank == 0
    with ExitStack() as stack:
        if lead:
            refuse_begun_conversion(folder, resume)
            stack.enter_context(_held(folder))
            conversion = open_conversion(source, loaded, folder, checkpoint)
            if measure:
                measure.check(conversion)
            mapped(*_prepare(conversion))
        else:
            _wait(folder / RECORD)
            conversion = open_conversion(source, loaded, folder, checkpoint)
        measured = _in_turn(conversion, lead, measure)
        measured(conversion.teacher.run, "teacher")
        measured(conversion.mapped, MAPPED)
        for number in range(len(conversion.stages)):
            stage = conversion.stages[number]
            _train(conversion, stage, reporter())
            measured(stage.run, stage.name)
            if number == 0 and is_auto(conversion.keep):
                _choose(conversion, lead, reporter(), told)
                conversion = open_conversion(source, loaded, folder, checkpoint)
    return conversion


def open_conversion(source: str, loaded: Loaded, folder: Path, checkpoint: Which = None) -> Conversion:
    """Check everything that can be checked before training. Raises UserError."""
    check_section(loaded)
    teacher = open_teacher(source, folder / "teacher", checkpoint, begun=(folder / RECORD).is_file())
    conversion = plan_conversion(teacher, loaded, folder)
    refuse_other(conversion)
    for stage in conversion.stages:
        check_stage(stage)
    return conversion


def _prepare(conversion: Conversion) -> tuple[list[MappedLayer], Plan]:
    """The student's first weights, and the record, unless they are there. What its layers began with, and its plan."""
    folder, teacher, loaded = conversion.folder, conversion.teacher, conversion.loaded
    (folder / STAGES).mkdir(exist_ok=True)
    plan = compile_recipe(loaded)
    if conversion.record.is_file() and conversion.mapped.recipe_file.is_file():
        layers = read_recorded(conversion.record, RecordedConversion).layers
        check_layers(folder, layers, plan)
        return layers, plan
    student = initial_model(plan, loaded.recipe.train.seed)
    layers = map_weights(teacher.load(), student)
    if not conversion.mapped.begun:
        own = loaded.recipe.model_copy(update={"rules": CURRENT_RULES, "convert": None})
        with whole_folder(conversion.mapped.path) as part:
            write_run(Run(part), own, plan, teacher.tokenizer, weights_of(student), teacher.data, conversion.code)
    record = {
        "teacher": {
            "run": str(teacher.run.path),
            "step": teacher.step,
            "sha256": teacher.sha256,
            "fingerprint": teacher.fingerprint,
        },
        **conversion.said(),
        "code": hashes(conversion.code),
        "layers": [layer._asdict() for layer in layers],
    }
    write_whole(conversion.record, json.dumps(record, indent=1).encode())
    return layers, plan


def _train(conversion: Conversion, stage: PlannedStage, reporter: Reporter) -> None:
    if stage.done:
        if changes := stage_changes(stage):
            reporter.message(f"stage {stage.name} is finished; what was changed has no effect: {'; '.join(changes)}")
        return
    steps = stage.loaded.recipe.train.steps
    said = f"{steps:,} step{'s' * (steps != 1)}, training {TRAINED[stage.stage.trains]}"
    reporter.message(f"stage {stage.name}: {said}")
    evaluation_file(conversion.folder, stage.name).unlink(missing_ok=True)  # of the weights so far
    objective = stage.objective(conversion.teacher)
    callbacks = probes_of(stage.loaded)
    own, begun = stage.run.path, stage.run.begun
    run_training(stage.loaded, own, resume=begun, reporter=reporter, callbacks=callbacks, objective=objective)


def _choose(conversion: Conversion, lead: bool, reporter: Reporter, told: Callable[[Choice], None]) -> None:
    """Under `keep: auto`, after the first stage, on rank 0."""
    folder = conversion.folder
    if lead and chosen_mixers(folder) is None:
        aligned, kept = conversion.stages[0].run, Run(folder / STAGES / KEPT)
        told(choose_and_write(conversion.loaded, conversion.teacher, aligned, kept, folder, reporter))
    _wait(folder / CHOICE)


def _in_turn(conversion: Conversion, lead: bool, measure: Measure | None) -> Callable[[Run, str], None]:
    """Measure on rank 0, once, and again where the questions, their text or the weights are others than when a
    conversion that is resumed was measured; the other ranks wait here, since engines give up on a rank that is late."""
    asked = measure.asked(conversion) if measure and lead else None

    def measured(run: Run, name: str) -> None:
        done = evaluation_file(conversion.folder, name)
        if measure and lead:
            manifest = run.chosen(conversion.teacher.step if name == "teacher" else None)[1]
            of = {"asked": asked, "weights": manifest.files[WEIGHTS].sha256}
            if not _answers(done, of):
                done.parent.mkdir(exist_ok=True)
                write_whole(done, format_json({**measure(conversion, run, name), **of}).encode())
        if measure:
            _wait(done)

    return measured


def _answers(file: Path, of: Mapping[str, str | None]) -> bool:
    """Whether a file holds the answers of these weights to these questions; older files do not say of which."""
    return file.is_file() and of.items() <= read_recorded(file, dict[str, Any]).items()


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
