"""The stages of a conversion as ordinary runs: what each trains, from which weights, with which objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from hybridkit.block import Block, Entry, Window, window_of
from hybridkit.convert.fit import check_fit, same_entry
from hybridkit.convert.keep_auto import check_auto, chosen_mixers, is_auto, with_kept
from hybridkit.convert.logit_cache import LogitCache
from hybridkit.convert.objectives import Distil, Hidden, Teacher
from hybridkit.convert.teacher import TeacherRun
from hybridkit.data.cache import cache_root, digest_of
from hybridkit.language.parser import parse_pattern
from hybridkit.language.printer import canonical
from hybridkit.language.resolve import resolve
from hybridkit.model.loading import plan as compile_recipe
from hybridkit.model.plan import Plan
from hybridkit.recipe.convert import Stage, stage_train
from hybridkit.recipe.files import Loaded
from hybridkit.recipe.schema import Recipe
from hybridkit.recipe.section import MOST
from hybridkit.recipe.train import Train
from hybridkit.registry.registry import Registry
from hybridkit.runs.run import Run
from hybridkit.system.errors import UserError
from hybridkit.system.machine import choose_device, choose_precision
from hybridkit.system.pydantic_errors import first_error
from hybridkit.training.freeze import frozen
from hybridkit.training.objective import CROSS_ENTROPY, Objective
from hybridkit.training.state import load_train_state

STAGES = "stages"  # the folder of a conversion that holds the runs of all stages but the last
MAPPED = "0-mapped"
KEPT = "1-kept"  # after the first stage, under `keep: auto`
LOGITS = "logits"  # in the user's cache
TRAINED = {"new": "the new mixers", "mixers": "all mixers", "all": "all weights"}  # by `train` of a stage


def said_losses(losses: Mapping[str, float], top_k: int | None) -> str:
    """Losses with their factors in a few words: `0.9 ce+0.1 kl top 256`."""
    return "+".join(f"{factor:g} {loss}" for loss, factor in losses.items()) + (f" top {top_k}" if top_k else "")


class PlannedStage(NamedTuple):
    """A stage, and the run that it is."""

    place: int  # in `convert.stages`, from 0
    stage: Stage
    name: str
    run: Run
    loaded: Loaded
    plan: Plan
    new: Sequence[int]  # entries in which the student differs from the teacher

    @property
    def done(self) -> bool:
        """Whether its run has made its last step."""
        found = self.run.newest().checkpoint
        if found is None:
            return False
        return found.step >= self.loaded.recipe.train.steps or load_train_state(found).stopped is not None

    def said(self) -> Mapping[str, Any]:
        """What must be the same when a conversion is resumed, beside what its own run checks."""
        stage = self.stage
        return {
            "name": self.name, "loss": dict(stage.losses), "train": stage.trains, "top_k": stage.top_k,
            "window": stage.window,
        }  # fmt: skip

    @property
    def needs_no_teacher(self) -> bool:
        """Whether it minimizes cross-entropy alone."""
        return self.stage.losses.keys() == {"ce"}

    def objective(self, teacher: TeacherRun) -> Objective:
        """What it minimizes."""
        losses, train = self.stage.losses, self.loaded.recipe.train
        if self.needs_no_teacher:
            return CROSS_ENTROPY
        taught = Teacher(teacher.plan, teacher.sha256, teacher.load)
        fixed = sorted(frozen(self.plan, train.freeze, train.steps - 1, train.steps))  # also in the last step
        k = self.stage.top_k
        name = said_losses(losses, k)
        if "hidden" in losses:
            return Hidden(name, taught, fixed, self.new)
        cache = LogitCache(cache_folder(teacher, train, k)) if self.stage.cache and k else None
        return Distil(name, taught, fixed, losses, k, cache)


def planned(loaded: Loaded, teacher: Plan, folder: Path) -> list[PlannedStage]:
    """All stages of a recipe. Under `keep: auto` those behind the first have the kept mixers once they are chosen.

    Raises UserError for a stage that cannot be built, or that trains nothing.
    """
    assert loaded.recipe.convert
    stages = loaded.recipe.convert.all_stages
    student, new = _student(loaded, teacher)
    keep, kept = loaded.recipe.convert.keep, chosen_mixers(folder)
    if is_auto(keep):
        check_auto(str(keep), teacher, new, [stage for _, stage in stages])
    found, origin = list[PlannedStage](), folder / STAGES / MAPPED
    for number, (place, stage) in enumerate(stages, start=1):
        if number == 2 and is_auto(keep) and kept is not None:
            loaded, origin = with_kept(loaded, teacher, kept), folder / STAGES / KEPT
            student, new = _student(loaded, teacher)
        name = f"{number}-{stage.title}"
        last = number == len(stages)
        run = Run(folder if last else folder / STAGES / name)
        own = stage_recipe(loaded, student, place, stage, _origin(run, origin), new)
        found.append(PlannedStage(place, stage, name, run, own, compile_recipe(own), new))
        origin = run.path
    return found


def _student(loaded: Loaded, teacher: Plan) -> tuple[Plan, list[int]]:
    """The student, and the entries in which it differs from the teacher."""
    student = compile_recipe(loaded)
    check_fit(teacher, student)
    new = [index for index in range(len(student.entries)) if not same_entry(teacher, student, index)]
    if not new:
        raise UserError(f"{student.pattern}: every mixer is as the teacher has it, so that there is nothing to convert")
    return student, new


def stage_recipe(loaded: Loaded, student: Plan, place: int, stage: Stage, origin: str, new: Sequence[int]) -> Loaded:
    """The recipe of a stage's run, which begins with the weights of `origin`. Raises UserError."""
    said = loaded.recipe.model_dump(mode="json", by_alias=True)
    said["train"] |= stage_train(stage, loaded.recipe.train, place)
    said["train"] |= {"from": origin, "freeze": _freeze(student, stage, new, loaded.recipe.train.freeze)}
    said["data"]["sequence"] = stage.sequence or loaded.recipe.data.sequence
    said["convert"] = None
    if stage.window:
        said["pattern"] = _with_window(student, stage.window, f"convert.stages.{place}.window", loaded.registry)
    try:
        recipe = Recipe.model_validate(said, context={"registry": loaded.registry})
    except ValidationError as error:
        raise UserError(f"convert.stages.{place}: {first_error(error)}") from error
    return Loaded(recipe, None, loaded.path, loaded.registry)


def _origin(run: Run, origin: Path) -> str:
    """Where a stage begins. A run that was begun keeps what it says, since the folder may have been moved."""
    said = run.recipe.recipe.train.from_ if run.recipe_file.is_file() else None
    return said.run if said else str(origin.resolve())


def _freeze(plan: Plan, stage: Stage, new: Sequence[int], own: Mapping[str, int | float]) -> dict[str, int | float]:
    """What the stage does not train, beside what `train.freeze` says."""
    if stage.trains == "all":
        return dict(own)
    mixers = [index for index, entry in enumerate(plan.entries) if entry.is_mixer]
    trained = set(new if stage.trains == "new" else mixers)
    ends = ["embedding", "norm"] + ["head"] * (not plan.config.tie)
    fixed = [*ends, *(str(index) for index in range(len(plan.entries)) if index not in trained)]
    return {**own, **dict.fromkeys(fixed, MOST)}


def _with_window(plan: Plan, text: str, where: str, registry: Registry) -> str:
    """The pattern with one policy for all blocks that have one. Raises UserError."""
    try:
        (call,) = parse_pattern(f"[swa:{text}]")
        policy = window_of(resolve(call, registry, f"[swa:{text}]", None).block)
    except (UserError, ValueError) as error:
        raise UserError(f"{where}: {text} is not a window policy such as 128 or stoch(32,256): {error}") from error
    if not plan.has_windows:
        raise UserError(f"{where}: no block of {plan.pattern} has a window; leave it out")
    assert policy
    entries = [Entry(tuple(_windowed(block, policy) for block in entry.branches)) for entry in plan.written]
    return canonical(list(map(str, entries)))


def _windowed(block: Block, policy: Window) -> Block:
    return block.model_copy(update={"window": policy}) if window_of(block) else block


def cache_folder(teacher: TeacherRun, train: Train, k: int) -> Path:
    """Named by everything that the logits depend on, beside the batch."""
    device = choose_device(train.device).type
    of = digest_of([teacher.fingerprint, device, choose_precision(train.precision, device)])
    return cache_root().parent / LOGITS / f"{of[:32]}-top-{k}"
