"""What a run must not go on with: another model, other data, other rules than it was begun with.

Every function here raises UserError, which says what differs and what would be right.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hybridkit.data.recipe_data import validation_names
from hybridkit.data.tokenizer_choice import run_tokenizer
from hybridkit.model.config import ModelConfig
from hybridkit.recipe.files import RecipeChange, recipe_changes
from hybridkit.recipe.record import in_words, recipe_differences
from hybridkit.recipe.rules_version import CURRENT_RULES
from hybridkit.recipe.schema import Recipe, leaves
from hybridkit.registry.registry import Registry
from hybridkit.runs.manifest import Manifest
from hybridkit.runs.plugin_copies import refuse_changed
from hybridkit.runs.run import Checkpoint, Newest, Run
from hybridkit.system.errors import UserError, nearest
from hybridkit.system.folders import explain, kind
from hybridkit.system.links import check_tree
from hybridkit.training.state import load_train_state

OBJECTIVE = ("objective", "teacher")  # entries of manifests; absent where the objective is cross-entropy
CROSS = "cross-entropy"
PLACES = ("a folder", "an empty folder")  # kinds of folders into which a run may be trained
VALIDATION = ("val_loss", "val_bits_per_byte")


def refuse_begun(run: Run, resume: bool) -> None:
    """Raises UserError for a folder that holds a run, where none is to be resumed."""
    if run.begun and not resume:
        raise UserError(f"{run.path} holds a run; go on with it with --resume, or name another folder with --run")


def refuse_folder(run: Run) -> None:
    """Raises UserError for a folder that holds something else than a run may: runs, a study, a conversion's stages."""
    path = run.path
    if run.begun or not path.is_dir():
        return
    inner = sorted(one.name for one in path.iterdir() if one.is_dir() and Run(one).begun)
    if inner:
        more = f" and {len(inner) - 3} more" if len(inner) > 3 else ""
        raise UserError(
            f"--run {path}: a folder of runs ({', '.join(inner[:3])}{more}), not the place of one; name a folder within"
            f" it, such as {path / 'new'}"
        )
    if kind(path) not in PLACES:
        raise UserError(f"--run {explain(path, 'a place for a run')}")
    check_tree(path, f"{path} holds no run: name another folder with --run")


def refuse_unknown_metrics(recipe: Recipe, probed: Sequence[str]) -> None:
    """Raises UserError where `train.until` or `train.best` names a figure that no validation and no probe gives."""
    known = [*VALIDATION, *(f"{name}_ema" for name in VALIDATION if recipe.train.ema), *validation_names(recipe.data)]
    until = recipe.train.until
    for field, metric in (("until", until.metric if until else None), ("best", recipe.train.best)):
        if metric is not None and metric not in (*known, *probed):
            near = nearest(metric, [*known, *probed])
            hint = f"did you mean `{near}`? There" if near else "there"
            raise UserError(f"train.{field}: nothing measures {metric}; {hint} are {', '.join([*known, *probed])}")


def refuse_old_rules(recipe: Recipe, run: Run | None) -> None:
    """Raises UserError for a recipe or a run of older rules: training follows the current ones."""
    if recipe.rules not in (None, CURRENT_RULES):
        raise UserError(
            f"rules: {recipe.rules}: training follows rules {CURRENT_RULES}; take `rules` out of the recipe"
        )
    if run and run.recipe_file.exists() and (made_by := run.read_recipe().recipe.rules) != CURRENT_RULES:
        raise UserError(
            f"{run.path} was made by rules {made_by}, and this hybridkit trains by rules {CURRENT_RULES}, so that it"
            " cannot be resumed: go on with the hybridkit that began it, or begin another run with --run"
            " (show, eval, generate and export read it as it is)"
        )


def changes_of(run: Run, recipe: Recipe, registry: Registry) -> list[str]:
    """What `recipe` changes of the run's, in words. Raises UserError for what a run must keep."""
    if not run.recipe_file.exists():
        raise UserError(f"{run.path} holds a run without {run.recipe_file.name}; name another folder with --run")
    record, fixed = run.record(), {leaf.key for leaf in leaves(registry) if leaf.fixed}
    trained = (record.recipe if record else None) or {}  # recipe.yaml may have been edited since
    differ = [RecipeChange(*one, one[0] not in fixed) for one in recipe_differences(trained, recipe)]
    changes = [one for one in recipe_changes(run.read_recipe().recipe, recipe, registry) if one.key not in trained]
    said = [f"{one.key}: {in_words(one.old)} in the run, {in_words(one.new)} now" for one in (*differ, *changes)]
    if refused := [text for text, one in zip(said, (*differ, *changes), strict=True) if not one.allowed]:
        raise UserError(
            f"{run.path} was begun with another recipe, and these must not change on --resume:\n  "
            + "\n  ".join(refused)
            + "\nuse the run's own recipe, or name another folder with --run"
        )
    return said


def finished(checkpoint: Checkpoint, recipe: Recipe, run: Run) -> str | None:
    """Why nothing is left to do, if so. Raises UserError where more was done than is asked for."""
    step, steps, until = checkpoint.step, recipe.train.steps, recipe.train.until
    if step > steps:
        raise UserError(
            f"train.steps: {steps} is fewer than the {step} that {run.path} has done;"
            " ask for more, or for another run with --run"
        )
    if step == steps:
        return f"{step} of {steps} steps are done"
    if until and load_train_state(checkpoint).stopped == until.model_dump_json():
        return f"train.until was met after step {step}"
    return None


def refuse_other_function(source: Recipe, recipe: Recipe) -> None:
    """Raises UserError where the weights of `source` have the right shapes, but would compute another function here."""
    theirs, own = (ModelConfig.of(one, vocab=1) for one in (source, recipe))
    if (theirs.width, theirs.tie) != (own.width, own.tie):
        return  # other shapes, or embeddings that training makes its own
    origin = recipe.train.from_.run if recipe.train.from_ else ""
    if theirs.norm_eps != own.norm_eps:
        raise UserError(
            f"train.from: {origin} has model.norm_eps {theirs.norm_eps:g}, not {own.norm_eps:g},"
            f" so that its weights would compute something else: set model.norm_eps={theirs.norm_eps:g}"
        )
    for name in (*theirs.stack_options(), *own.stack_options()):
        if getattr(theirs, name) != getattr(own, name):
            raise UserError(
                f"train.from: {origin} has model.{name} {getattr(theirs, name)}, not {getattr(own, name)},"
                f" so that its weights would compute something else: set model.{name}={getattr(theirs, name)}"
            )
    if theirs.row_scale != own.row_scale:
        made = f"tied and was made by rules {source.rules}" if own.tie else "another model"
        raise UserError(
            f"train.from: {origin} is {made}, which multiplies rows of the embedding by"
            f" {theirs.row_scale:g}, not by {own.row_scale:g}, so that its weights would compute something else:"
            f" set model.embedding_scale={theirs.row_scale:g}"
        )


def refuse_other_tokenizer(origin: Run, tokenizer: str) -> None:
    """Raises UserError where the embedding of `train.from` belongs to other tokens."""
    if (theirs := run_tokenizer(origin, registry=origin.recipe.registry).digest) != tokenizer:
        name = "bytes" if theirs == "bytes" else f"{origin.path}/tokenizer.json"
        raise UserError(
            f"train.from: {origin.path} was trained with another tokenizer (sha256 {theirs}) than this run's"
            f" (sha256 {tokenizer}), so that its embedding would stand for other tokens; set data.tokenizer={name}"
        )


def refuse_other_code(found: Newest, code: Mapping[str, str], run: Run) -> None:
    """Raises UserError where plug-ins differ from those that the checkpoint was trained with."""
    if found.manifest and found.manifest.code is not None:
        remedy = f"the run's own copies are in {run.path}/plugins; or name another folder with --run"
        refuse_changed(str(run.path), found.manifest.code, code, remedy)


def refuse_other_checkpoint(manifest: Manifest, about: dict[str, Any]) -> None:
    """Raises UserError for a checkpoint of another tokenizer, other data or another model."""
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


def refuse_other_training(manifest: Manifest, about: dict[str, Any]) -> None:
    """Raises UserError for a checkpoint of another objective, teacher or optimizer."""
    said, now = ([entries.get(key, "") for key in OBJECTIVE] for entries in (manifest.entries, about["entries"]))
    if said[0] != now[0]:
        raise UserError(
            f"this run is trained on {said[0] or CROSS}, and what was asked for is {now[0] or CROSS}: a stage of a"
            " conversion is resumed by `hybridkit convert ... --resume`"
        )
    if said != now:
        raise UserError(
            f"the teacher's weights are not those that this run began with (sha256 {said[1]}, {now[1]} now)"
        )
    if manifest.optimizer != about["optimizer"]:
        raise UserError(
            f"train.optimizer: {about['optimizer']} cannot go on from this checkpoint, which holds the state of"
            f" {manifest.optimizer}: set train.optimizer={manifest.optimizer}, or start another run with train.from"
        )
