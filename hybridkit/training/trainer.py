"""From a recipe to a run folder: begin a run, or resume one."""

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hybridkit.data.batches import Feed
from hybridkit.data.recipe_data import describe_feed, open_feed
from hybridkit.model.loading import own_tokenizer, said_model
from hybridkit.model.plan import Plan
from hybridkit.recipe.choices import chosen
from hybridkit.recipe.files import Loaded, dump
from hybridkit.recipe.record import recipe_record
from hybridkit.recipe.schema import Recipe
from hybridkit.registry.registry import Registry
from hybridkit.runs.manifest import ENGINE_KEYS, Invalid
from hybridkit.runs.plugin_copies import hashes, write_copies
from hybridkit.runs.run import Newest, Run
from hybridkit.system.errors import Failure, UserError
from hybridkit.system.files import write_whole
from hybridkit.system.links import check_tree
from hybridkit.system.lock import Lock
from hybridkit.system.notices import listening
from hybridkit.training.arithmetic import keep_arithmetic
from hybridkit.training.callback import Callback, Callbacks, TrainingStart
from hybridkit.training.checkpoint import Store, sweep
from hybridkit.training.checks import check_training
from hybridkit.training.engine import Engine, engine_of, open_engine
from hybridkit.training.first_weights import entries_of, start_from
from hybridkit.training.loop import Loop, LoopParts
from hybridkit.training.metrics_log import MetricsLog, missing_steps
from hybridkit.training.objective import CROSS_ENTROPY, Objective
from hybridkit.training.refusals import (
    changes_of,
    finished,
    refuse_begun,
    refuse_other_checkpoint,
    refuse_other_code,
    refuse_other_training,
)
from hybridkit.training.reporter import Reporter, Silent
from hybridkit.training.schedule import schedule_of
from hybridkit.training.state import TrainState, load_train_state
from hybridkit.training.too_large import naming_what_fits
from hybridkit.training.used_plugins import training_code


def run_training(
    loaded: Loaded,
    folder: Path,
    *,
    resume: bool,
    reporter: Reporter,
    callbacks: Sequence[Callback] = (),
    objective: Objective = CROSS_ENTROPY,
) -> None:
    """Train a recipe into a run folder; `callbacks` are told what happens, on rank 0, after the reporter.

    Raises UserError for a folder that holds a run (without `resume`), is in use, or was trained with a recipe that
    differs in what must not change; Failure where training cannot go on; Interrupted for a signal.
    """
    run = Run(folder)
    refuse_begun(run, resume)
    recipe, plan, loggers = check_training(loaded, callbacks, run)
    changes = changes_of(run, recipe, loaded.registry) if run.begun else []
    engine = open_engine(plan, recipe.train, loaded.registry)
    if objective is not CROSS_ENTROPY:
        engine.minimize(objective)
    try:
        with ExitStack() as stack:
            stack.enter_context(listening(reporter.message if engine.rank == 0 else lambda text: None))
            _begin(run, engine, stack, resume)
            lead = engine.rank == 0
            told = reporter if lead else Silent()
            _train(
                _Job(recipe, loaded.registry, plan, run, engine, told, [*loggers, *callbacks], objective, changes),
                resume,
            )
    except OSError as error:
        last = next((c.folder.name for c in run.checkpoints()), "none")
        raise Failure(f"{folder}: {error}; newest checkpoint: {last}") from error
    except Invalid as error:
        raise UserError(f"{folder}: {error}") from error


class _Job(NamedTuple):
    """What is trained, with what, where, and who is told."""

    recipe: Recipe
    registry: Registry
    plan: Plan
    run: Run
    engine: Engine
    reporter: Reporter
    callbacks: Sequence[Callback]
    objective: Objective
    changes: Sequence[str]  # of the recipe of a run that is resumed, in words

    @property
    def lead(self) -> bool:
        """Whether this is rank 0, which alone writes the run's own files."""
        return self.engine.rank == 0


def _train(job: _Job, resume: bool) -> None:
    recipe, run, reporter = job.recipe, job.run, job.reporter
    found = run.newest()
    _tell(found, run, reporter, resume)
    code = training_code(job.plan.entries, recipe, job.registry)
    refuse_other_code(found, hashes(code), run)
    about = _about(job) | {"code": hashes(code)}
    if found.manifest:
        refuse_other_training(found.manifest, about)
    if found.checkpoint and (done := finished(found.checkpoint, recipe, run)):
        if job.lead:
            sweep(run)
        unused = f"; what was changed has no effect: {'; '.join(job.changes)}" if job.changes else ""
        reporter.message(f"{run.path} is finished: {done}{unused}")
        return
    for change in job.changes:
        reporter.message(f"changed: {change}")
    data = own_tokenizer(run, recipe.data, job.registry)
    feed = open_feed(data, recipe.train, reporter.preparing, registry=job.registry)
    for line in describe_feed(feed, recipe.train, job.plan.dims.vocab):
        reporter.message(line)
    Callbacks(job.callbacks).tell("prepare", feed.tokenizer)
    about |= {"data": feed.digest, "tokenizer": feed.tokenizer.digest}
    state = _restored(found, about, job)
    job.objective.begin(job.engine.model)
    about["threads"] = torch.get_num_threads()
    store = Store(run, recipe.train, lead=job.lead, barrier=lambda: job.engine.all_reduce_max(0))
    if job.lead:
        write_whole(run.recipe_file, dump(recipe).encode())
        feed.tokenizer.save(run.path)  # also where it was changed or deleted since: this is the recorded one
        if found.checkpoint is None:
            write_copies(run, code)
    state.stopped = None  # train.until is another one now
    store.open(found.checkpoint, found.skipped, state.needed)
    _loop(job, feed, store, state, about)


def _loop(job: _Job, feed: Feed, store: Store, state: TrainState, about: dict[str, Any]) -> None:
    """The steps, with everything open that they write to."""
    callbacks = Callbacks([job.reporter, *job.callbacks] if job.lead else [])
    with MetricsLog(job.run) if job.lead else nullcontext() as log:
        lines = log.cut(state.step) if log else []
        if log and log.damaged:
            job.reporter.message(f"{job.run.metrics_file.name}: dropped {log.damaged} lines that could not be read")
        if log and (missing := missing_steps(lines, state.step)):
            job.reporter.message(f"{job.run.metrics_file.name}: there are no lines of steps {missing}")
        try:
            callbacks.tell("on_start", TrainingStart(job.run.path, state.step, job.recipe.train.steps, lines))
            del lines
            schedule = schedule_of(job.recipe.train, job.registry)
            where = (job.recipe, schedule, job.plan, job.run, feed, job.engine, job.objective)
            loop = Loop(LoopParts(*where, store, log, job.reporter, callbacks, about), state)
            with naming_what_fits(job.recipe, job.plan, job.engine, loop.rows):
                loop.run()
        finally:
            store.close()
            callbacks.tell("on_end")


def _begin(run: Run, engine: Engine, stack: ExitStack, resume: bool) -> None:
    """Lock the folder within `stack`, on rank 0. Where that fails, rank 0 raises the error and the others exit."""
    refusal = None
    if engine.rank == 0:
        try:
            stack.enter_context(_held(run))
            refuse_begun(run, resume)
        except (UserError, OSError) as error:
            refusal = error
    if engine.all_reduce_max(int(refusal is not None)):
        raise refusal or SystemExit(2)


@contextmanager
def _held(run: Run) -> Iterator[None]:
    """The folder of a run, made where there is none, and locked; removed again where the run did not begin."""
    new = not run.path.exists()
    if run.path.is_dir():
        check_tree(run.path)
    _make(run.path)
    try:
        with Lock(run.path) as lock:
            try:
                yield
            finally:
                if not run.begun:
                    lock.remove()
    finally:
        if new and not run.begun:
            with suppress(OSError):  # somebody else put something there
                run.path.rmdir()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"--run {folder}: a file is in the way; name a folder") from error


def _tell(found: Newest, run: Run, reporter: Reporter, resume: bool) -> None:
    """Say from which checkpoint training goes on. Raises UserError where there are checkpoints, and none is valid."""
    reasons = [f"skipped {name}: {reason}" for name, reason in found.skipped.items()]
    if found.checkpoint is None and reasons:
        raise UserError(
            f"{run.path} holds no valid checkpoint; name another folder with --run\n  " + "\n  ".join(reasons)
        )
    for reason in reasons:
        reporter.message(reason)
    if found.checkpoint:
        reporter.message(f"resuming from {found.checkpoint.folder}")
    elif resume:
        reporter.message(f"{run.path} holds no checkpoint yet: starting at step 1")


def _about(job: _Job) -> dict[str, Any]:
    """What a manifest says of a run, but for step and files, text, tokenizer and plug-ins."""
    train = job.recipe.train
    return {
        "engine": train.engine,
        **_entries({**engine_of(train, job.registry).manifest_entries(), **job.objective.entries()}),
        "optimizer": chosen(train.optimizer)[0],
        "ranks": job.engine.ranks,
        "threads": torch.get_num_threads(),
        "device": job.engine.device.type,
        "precision": job.engine.precision,
        "versions": {name: importlib.metadata.version(name) for name in ("hybridkit", "torch")},
        "model": said_model(job.plan, job.recipe),
        "recipe": recipe_record(job.recipe),
    }


def _entries(said: Mapping[str, Any]) -> dict[str, Any]:
    """What engine and objective add to a manifest: under a key of its own where the manifest has one."""
    known = {name: value for name, value in said.items() if name in ENGINE_KEYS}
    return {**known, "entries": {name: value for name, value in said.items() if name not in known}}


def _restored(found: Newest, about: dict[str, Any], job: _Job) -> TrainState:
    """The state to start from, with the engine's weights set: a checkpoint, another run's weights, or the beginning."""
    engine, recipe, reporter = job.engine, job.recipe, job.reporter
    if found.checkpoint and found.manifest:
        refuse_other_checkpoint(found.manifest, about)
        if found.manifest.code is None and about["code"]:
            reporter.message("this run keeps no record of its plug-ins: that they are the same cannot be verified")
        about["entries"] |= entries_of(found.manifest)
        keep_arithmetic(found.manifest, about, reporter.message)
        engine.load(found.checkpoint.folder)
        state = load_train_state(found.checkpoint)
        state.follow(recipe.train.best, job.run)
        return state
    if recipe.train.from_ is not None:
        about["entries"] |= start_from(recipe.train.from_, engine, about, reporter.message)
    return TrainState()
