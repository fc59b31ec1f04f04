"""`keep: auto N` within a conversion: after the first stage, the mixers are chosen that stay the teacher's.

The first stage aligns every new mixer with the teacher's (`loss: hidden`). The chosen ones give back their places, and
the later stages begin with the run `stages/1-kept`. `choice.json` holds the table, and is written last.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from hybridkit.convert.keep import Choice, RecallMeasure, auto_count, choose_kept, kept_pattern, mixer_entries
from hybridkit.convert.keep_measures import task_measure, text_measure
from hybridkit.convert.mapping import map_weights
from hybridkit.convert.recorded import read_recorded
from hybridkit.convert.teacher import TeacherRun
from hybridkit.data.recipe_data import feed_source, held_out_batches
from hybridkit.data.sources.recall import RecallTask
from hybridkit.evaluation.scoring import ReadOptions
from hybridkit.hub.importing import write_run
from hybridkit.model.loading import load_model
from hybridkit.model.loading import plan as compile_recipe
from hybridkit.model.plan import Plan
from hybridkit.recipe.convert import Stage
from hybridkit.recipe.files import Loaded
from hybridkit.recipe.rules_version import CURRENT_RULES
from hybridkit.runs.run import Run
from hybridkit.runs.weights import weights_of
from hybridkit.system.errors import UserError
from hybridkit.system.files import whole_folder, write_whole
from hybridkit.system.machine import choose_device
from hybridkit.training.engines.local.engine import initial_model
from hybridkit.training.reporter import Reporter
from hybridkit.training.used_plugins import training_code

CHOICE = "choice.json"
TOKENS, SAMPLES = 2**14, 64  # tokens of held-out text, and samples of a recall task, that measure every candidate


def is_auto(keep: Sequence[int] | str | None) -> bool:
    """Whether `convert.keep` says `auto N`."""
    return isinstance(keep, str) and keep.startswith("auto")


def check_auto(keep: str, teacher: Plan, new: Sequence[int], stages: Sequence[Stage]) -> None:
    """Raises UserError for too many mixers, or where `hidden` is not the first stage, or the only one."""
    count, mixers = auto_count(keep, teacher), [index for index in mixer_entries(teacher) if index in new]
    if count >= len(mixers):
        raise UserError(f"convert.keep: {keep}: {len(mixers)} mixers differ from the teacher's; keep fewer")
    if "hidden" not in stages[0].losses or len(stages) < 2:
        raise UserError(f"convert.keep: {keep}: needs a first stage with loss: hidden, and another after it")


def chosen_mixers(folder: Path) -> list[int] | None:
    """The mixers that a conversion has chosen; None where it has not yet."""
    file = folder / CHOICE
    if not file.is_file():
        return None
    return read_recorded(file, Choice).kept


def with_kept(loaded: Loaded, teacher: Plan, mixers: Sequence[int]) -> Loaded:
    """The student's recipe with these mixers as the teacher's. Raises UserError."""
    pattern = kept_pattern(compile_recipe(loaded), teacher, mixers)
    return loaded._replace(recipe=loaded.recipe.model_copy(update={"pattern": pattern}), source=None)


def choose_and_write(
    loaded: Loaded, teacher: TeacherRun, aligned: Run, kept: Run, folder: Path, reporter: Reporter
) -> Choice:
    """Choose, and write the run `kept` and the table."""
    recipe = loaded.recipe
    assert recipe.convert and isinstance(recipe.convert.keep, str)
    device = choose_device(recipe.train.device)
    whole, student = teacher.load().to(device), load_model(aligned.path).to(device)
    count = auto_count(recipe.convert.keep, teacher.plan)
    told = lambda number, found: reporter.message(  # noqa: E731
        f"without mixer {number}: recall {found.recall:.1%}, {found.loss:.4f} nats a token"
    )
    choice = choose_kept(whole, student, count, _measure(loaded), told)
    own = with_kept(loaded, teacher.plan, choice.kept)
    plan, places = compile_recipe(own), mixer_entries(teacher.plan)
    model = initial_model(plan, recipe.train.seed)
    map_weights(whole.cpu(), model)
    for index in set(places) - {places[number] for number in choice.kept}:
        model.layers[index].load_state_dict(student.layers[index].state_dict())
    if not kept.begun:
        said = own.recipe.model_copy(update={"rules": CURRENT_RULES, "convert": None})
        with whole_folder(kept.path) as part:
            code = training_code(plan.entries, recipe, loaded.registry)
            write_run(Run(part), said, plan, teacher.tokenizer, weights_of(model), teacher.data, code)
    rows = [{**one._asdict(), "without": one.without._asdict()} for one in choice.candidates]
    table = {"teacher": choice.teacher._asdict(), "candidates": rows}
    write_whole(folder / CHOICE, json.dumps(table, indent=1).encode())
    return choice


def _measure(loaded: Loaded) -> RecallMeasure:
    """Recall and loss on the recipe's held-out data."""
    data = loaded.recipe.data
    together = max(1, 4096 // data.sequence)
    rows = held_out_batches(data, data.sequence, together, registry=loaded.registry)
    batches = list(islice(rows, max(1, TOKENS // (together * data.sequence))))
    task = feed_source(data, loaded.registry)
    if isinstance(task, RecallTask):
        return task_measure(task, data.sequence // 2, SAMPLES, batches, ReadOptions())
    return text_measure(batches, ReadOptions())
