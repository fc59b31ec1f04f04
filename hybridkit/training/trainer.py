"""From a recipe to a run folder: begin a run, or go on with one, and leave nothing half done."""

import importlib.metadata
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from hybridkit.data.batches import Feed
from hybridkit.data.open import describe_feed, open_feed
from hybridkit.data.tokenizers.choice import run_tokenizer
from hybridkit.model.loading import own_tokenizer
from hybridkit.model.loading import plan as compile_recipe
from hybridkit.model.plan import Plan, embedding_scale
from hybridkit.recipe.files import Loaded, dump, recipe_changes
from hybridkit.recipe.rules import CURRENT_RULES
from hybridkit.recipe.schema import Recipe
from hybridkit.runs.manifest import Invalid, Manifest
from hybridkit.runs.plugin_copies import code_of, hashes, recorded, refuse_changed, write_copies
from hybridkit.runs.run import Newest, Run
from hybridkit.system.errors import Failure, UserError
from hybridkit.system.files import write_whole
from hybridkit.system.links import check_tree
from hybridkit.system.lock import Lock
from hybridkit.training.checkpoint import Store, sweep
from hybridkit.training.engines.choice import open_engine
from hybridkit.training.engines.engine import Engine
from hybridkit.training.logs import Logs
from hybridkit.training.loop import Loop, Parts
from hybridkit.training.reporter import Reporter, Silent
from hybridkit.training.state import State, load_state

THREADS = 64  # that any machine can start, however few processors it has


def train(loaded: Loaded, folder: Path, *, resume: bool, reporter: Reporter) -> None:
    """Train a recipe into a run folder.

    Raises UserError for a folder that holds a run (without `resume`), is in use, or was trained with a recipe that
    differs in what must not change; Failure where training cannot go on; Interrupted for a signal.
    """
    run = Run(folder)
    _refuse_begun(run, resume)
    _refuse_old_rules(loaded.recipe, run)
    plan = compile_recipe(loaded, of=run if run.begun else None)
    recipe = loaded.recipe.model_copy(
        update={"model": loaded.recipe.model.model_copy(update={"vocab": plan.dims.vocab}), "rules": CURRENT_RULES}
    )
    changes = _changes(run, recipe) if run.begun else []
    engine = open_engine(plan, recipe.train)
    try:
        with ExitStack() as stack:
            _begin(run, engine, stack, resume)
            heard = reporter if engine.rank == 0 else Silent()
            for change in changes:
                heard.message(f"changed: {change}")
            _train(recipe, plan, run, engine, heard, resume)
    except OSError as error:
        last = next((c.folder.name for c in run.checkpoints()), "none")
        raise Failure(f"{folder}: {error}; newest checkpoint: {last}") from error
    except Invalid as error:
        raise UserError(f"{folder}: {error}") from error


def _train(recipe: Recipe, plan: Plan, run: Run, engine: Engine, reporter: Reporter, resume: bool) -> None:
    found = run.newest()
    _tell(found, run, reporter, resume)
    code = code_of(plan.entries)
    _refuse_code(found, hashes(code), run)
    if found.checkpoint and found.checkpoint.step > recipe.train.steps:
        raise UserError(
            f"train.steps: {recipe.train.steps} is fewer than the {found.checkpoint.step} that {run.path} has done;"
            " ask for more, or for another run with --run"
        )
    if found.checkpoint and found.checkpoint.step >= recipe.train.steps:
        if engine.rank == 0:
            sweep(run)
        reporter.message(f"{run.path} is finished: {found.checkpoint.step} of {recipe.train.steps} steps are done")
        return
    feed = open_feed(own_tokenizer(run, recipe.data), recipe.train, reporter.preparing)
    for line in describe_feed(feed, recipe.train, plan.dims.vocab):
        reporter.message(line)
    about = _about(engine, recipe, plan, feed) | {"code": hashes(code)}
    state = _restored(found, about, engine, recipe, reporter)
    about["threads"] = torch.get_num_threads()
    lead = engine.rank == 0
    store = Store(run, recipe.train, lead=lead, barrier=lambda: engine.all_reduce_max(0))
    if lead:
        write_whole(run.recipe_file, dump(recipe).encode())
        if found.checkpoint is None:
            feed.tokenizer.save(run.path)
            write_copies(run, code)
    store.open(found.checkpoint, found.skipped, state.scheduled)
    with Logs(run, state.step) if lead else nullcontext() as logs:
        if logs and logs.damaged:
            reporter.message(f"{run.metrics_file.name}: dropped {logs.damaged} lines that could not be read")
        reporter.start(run.path, state.step, recipe.train.steps)
        try:
            Loop(Parts(recipe, plan, feed, engine, store, logs, reporter, about), state).run()
        finally:
            store.close()
            reporter.end()


def _begin(run: Run, engine: Engine, stack: ExitStack, resume: bool) -> None:
    """Lock the folder within `stack`, on rank 0, which alone says why where that fails; the others end with it."""
    refusal = None
    if engine.rank == 0:
        try:
            stack.enter_context(_held(run))
            _refuse_begun(run, resume)
        except (UserError, OSError) as error:
            refusal = error
    if engine.all_reduce_max(int(refusal is not None)):
        raise refusal or SystemExit(2)


@contextmanager
def _held(run: Run) -> Iterator[None]:
    """The folder of a run, made where need be, and locked; a run that did not begin leaves nothing behind."""
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


def _refuse_begun(run: Run, resume: bool) -> None:
    if run.begun and not resume:
        raise UserError(f"{run.path} holds a run; go on with it with --resume, or name another folder with --run")


def _refuse_old_rules(recipe: Recipe, run: Run) -> None:
    """Raises UserError for a recipe or a run of other rules than the current ones, which alone are trained by."""
    if recipe.rules not in (None, CURRENT_RULES):
        raise UserError(
            f"rules: {recipe.rules}: training follows rules {CURRENT_RULES}; take `rules` out of the recipe"
        )
    if run.recipe_file.exists() and (made_by := run.recipe.recipe.rules) != CURRENT_RULES:
        raise UserError(
            f"{run.path} was made by rules {made_by}, and this hybridkit trains by rules {CURRENT_RULES}, so that it"
            " cannot be resumed: go on with the hybridkit that began it, or begin another run with --run"
            " (show, eval, generate and export read it as it is)"
        )


def _changes(run: Run, recipe: Recipe) -> list[str]:
    """What `recipe` changes of the run's, in words. Raises UserError for what a run must keep."""
    if not run.recipe_file.exists():
        raise UserError(f"{run.path} holds a run without {run.recipe_file.name}; name another folder with --run")
    changes = recipe_changes(run.recipe.recipe, recipe)
    said = {change.key: f"{change.key}: {change.old} in the run, {change.new} now" for change in changes}
    if refused := [said[change.key] for change in changes if not change.allowed]:
        raise UserError(
            f"{run.path} was begun with another recipe, and these must not change on --resume:\n  "
            + "\n  ".join(refused)
            + "\nuse the run's own recipe, or name another folder with --run"
        )
    return list(said.values())


def _tell(found: Newest, run: Run, reporter: Reporter, resume: bool) -> None:
    """Say what is gone on with. Raises UserError where there are checkpoints, and none is valid."""
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


def _about(engine: Engine, recipe: Recipe, plan: Plan, feed: Feed) -> dict[str, Any]:
    """What a manifest says of a run, but for step and files."""
    dims = plan.dims
    sizes = f"width={dims.width} heads={dims.heads} vocab={dims.vocab} tie={plan.tie} logit_cap={plan.logit_cap}"
    ffn = recipe.model.ffn and " ".join(f"{key}={value}" for key, value in recipe.model.ffn.items())
    return {
        "engine": engine.name,
        "zero": engine.zero,
        "ranks": engine.ranks,
        "threads": torch.get_num_threads(),
        "versions": {name: importlib.metadata.version(name) for name in ("hybridkit", "torch")},
        "data": feed.digest,
        "tokenizer": feed.tokenizer.digest,
        "model": f"{plan.pattern} {sizes} ffn({ffn})",
    }


def _restored(found: Newest, about: dict[str, Any], engine: Engine, recipe: Recipe, reporter: Reporter) -> State:
    """Where the run stands, with the engine put there: a checkpoint, another run's weights, or the beginning."""
    if found.checkpoint and found.manifest:
        _refuse_other(found.manifest, about)
        if found.manifest.code is None and about["code"]:
            reporter.message("this run keeps no record of its plug-ins: that they are the same cannot be verified")
        _same_threads(found.manifest.threads, reporter)
        engine.load(found.checkpoint.folder)
        return load_state(found.checkpoint)
    if recipe.train.from_ is not None:
        origin = Run(recipe.train.from_)
        _refuse_other_function(origin.recipe.recipe, recipe)
        _refuse_tokenizer(origin, about["tokenizer"])
        if (code := recorded(origin)) and code != about["code"]:
            reporter.message(f"train.from: {origin.path} was trained with other plug-ins, or other versions of them")
        engine.load_weights(origin.weights(), f"train.from: {origin.path}")
    return State()


def _refuse_other_function(source: Recipe, recipe: Recipe) -> None:
    """Raises UserError where the weights of `source`, of the same shapes, mean another function here."""
    scales = [embedding_scale(r.model.width, r.model.tie, r.rules or CURRENT_RULES) for r in (source, recipe)]
    if source.model.tie and recipe.model.tie and source.model.width == recipe.model.width and scales[0] != scales[1]:
        raise UserError(
            f"train.from: {recipe.train.from_} is tied and was made by rules {source.rules}, which read its embedding"
            f" as it is; rules {recipe.rules} scale it by sqrt(width), so that its weights would mean another function:"
            " start from an untied run, or from one made by the current rules"
        )


def _refuse_tokenizer(origin: Run, tokenizer: str) -> None:
    """Raises UserError where the rows of an embedding to start from stand for other tokens."""
    if (theirs := run_tokenizer(origin).digest) != tokenizer:
        name = "bytes" if theirs == "bytes" else f"{origin.path}/tokenizer.json"
        raise UserError(
            f"train.from: {origin.path} was trained with another tokenizer (sha256 {theirs}) than this run's"
            f" (sha256 {tokenizer}), so that its embedding would stand for other tokens; set data.tokenizer={name}"
        )


def _refuse_code(found: Newest, code: Mapping[str, str], run: Run) -> None:
    """Raises UserError where plug-ins are not those that the checkpoint was trained with."""
    if found.manifest and found.manifest.code is not None:
        remedy = f"the run's own copies are in {run.path}/plugins; or name another folder with --run"
        refuse_changed(str(run.path), found.manifest.code, code, remedy)


def _refuse_other(manifest: Manifest, about: dict[str, Any]) -> None:
    if manifest.tokenizer not in (None, about["tokenizer"]):
        raise UserError(
            f"data.tokenizer is not the tokenizer that this run was trained with: sha256 {manifest.tokenizer} in the"
            f" run, {about['tokenizer']} now (digest of its tokens {manifest.data}, {about['data']} now): name the"
            " run's own copy, or put the text back where the tokenizer is trained on it"
        )
    if manifest.data != about["data"]:
        raise UserError(
            f"the text of data.source is not what this run was trained on (digest {manifest.data} in the run,"
            f" {about['data']} now), so that its order of data cannot be kept:"
            " put the text back, or start another run with train.from"
        )
    if manifest.model != about["model"]:
        raise UserError(f"the checkpoint is of another model: {manifest.model}; the recipe's is {about['model']}")


def _same_threads(threads: int, reporter: Reporter) -> None:
    """Sums depend on how many threads share them: go on with as many as the run began with, if that can be had."""
    own = torch.get_num_threads()
    if threads > max(own, THREADS, os.cpu_count() or 1):
        reporter.message(f"this run used {threads} threads, more than can be had here: {own}, and sums round otherwise")
    elif threads != own:
        reporter.message(f"using {threads} threads, as this run did so far, instead of {own}")
        torch.set_num_threads(threads)
