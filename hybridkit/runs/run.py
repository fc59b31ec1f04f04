"""A run folder as `train` writes it, read without trusting it: YAML, JSON and safetensors, nothing executable."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hybridkit.recipe.files import Loaded, read_recipe
from hybridkit.recipe.record import in_words, recipe_differences
from hybridkit.recipe.rules_version import FIRST_RULES
from hybridkit.recipe.schema import Recipe
from hybridkit.recipe.train import better
from hybridkit.registry.registry import REGISTRY, Registry
from hybridkit.runs.manifest import CHECKPOINTS, STATE, WEIGHTS, Invalid, Manifest, check_files, read_manifest
from hybridkit.runs.metrics import Metrics, last_line, read_metrics
from hybridkit.runs.plugin_copies import registry_of
from hybridkit.system.errors import UserError, nearest
from hybridkit.system.folders import explain, kind
from hybridkit.system.notices import warn_once

if TYPE_CHECKING:
    from torch import Tensor


RUN_RECIPE = "recipe.yaml"  # in a run folder
_STEP = re.compile(r"step-(0|[1-9][0-9]{0,17})", re.ASCII)


Which = int | str | None  # of a run's checkpoints: a step, `best`, or `newest` (None)


class Checkpoint(NamedTuple):
    """A folder `checkpoints/step-N`, valid or not."""

    folder: Path
    step: int

    def check(self, *names: str) -> Manifest:
        """The manifest, after checking that each of `names` (every file where none is given) agrees with it.

        Raises Invalid.
        """
        manifest = read_manifest(self.folder)
        check_files(self.folder, manifest, names or {WEIGHTS, STATE, *manifest.files})
        return manifest


class Newest(NamedTuple):
    """The newest valid checkpoint, and why newer ones are not."""

    checkpoint: Checkpoint | None
    manifest: Manifest | None
    skipped: dict[str, str]  # name of the folder -> reason


class Run:
    """The layout of a run folder, and what can be read from it; the folder need not exist yet.

    `which`: the checkpoint that `record` speaks of.
    """

    def __init__(self, path: Path | str, which: Which = None) -> None:
        self.path, self._which = Path(path), which
        self.recipe_file = self.path / "recipe.yaml"
        self.metrics_file = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoint_folder = self.path / CHECKPOINTS

    @property
    def begun(self) -> bool:
        """Whether the folder holds a run."""
        return any(p.exists() for p in (self.recipe_file, self.metrics_file, self.checkpoint_folder))

    @property
    def recipe(self) -> Loaded:
        """The resolved recipe, with the rules it was made by. That it is not the one that was trained is told.

        Raises UserError where there is none, or it cannot be read.
        """
        loaded = self.read_recipe()
        if edits := self.edits(loaded.recipe):
            said = "is not the recipe that the newest checkpoint was trained by, and is what counts here"
            warn_once(f"{self.recipe_file} {said}: {'; '.join(edits)}")
        return loaded

    def edits(self, recipe: Recipe) -> list[str]:
        """In what `recipe` differs from the one that the newest checkpoint was trained by, in words."""
        record = self._newest_manifest()
        if record is None or record.recipe is None:
            return []
        differ = recipe_differences(record.recipe, recipe)
        return [f"{key} is {in_words(now)}, and was {in_words(was)}" for key, was, now in differ]

    def read_recipe(self) -> Loaded:
        """The same, without a comparison with what was trained."""
        self.check_exists()
        if not self.recipe_file.is_file():
            if self.begun:
                raise UserError(f"{self.path}: a run folder that holds no {self.recipe_file.name}; put it back")
            raise UserError(explain(self.path, "a run folder"))
        loaded = load_recipe(self.recipe_file)
        rules = loaded.recipe.rules or FIRST_RULES
        return loaded._replace(recipe=loaded.recipe.model_copy(update={"rules": rules}))

    def metrics(self) -> Metrics:
        """The lines of metrics.jsonl, and how many could not be read."""
        return read_metrics(self.metrics_file)

    def last_line(self, name: str) -> dict[str, Any] | None:
        """The last line of metrics.jsonl that holds this metric, among those at its end."""
        return last_line(self.metrics_file, name)

    def checkpoints(self) -> Iterator[Checkpoint]:
        """All checkpoints, newest first, not checked yet; of an export the folder itself."""
        with suppress(Invalid):
            yield Checkpoint(self.path, read_manifest(self.path).step)
        names = [path.name for path in self.checkpoint_folder.iterdir()] if self.checkpoint_folder.is_dir() else []
        steps = [int(match[1]) for name in names if (match := _STEP.fullmatch(name))]
        yield from (Checkpoint(self.checkpoint_folder / f"step-{step}", step) for step in sorted(steps, reverse=True))

    def newest(self, *names: str) -> Newest:
        """The newest checkpoint of which `names`, or all files where none is given, agree with the manifest."""
        skipped: dict[str, str] = {}
        for checkpoint in self.checkpoints():
            try:
                return Newest(checkpoint, checkpoint.check(*names), skipped)
            except Invalid as error:
                skipped[checkpoint.folder.name] = str(error)
        return Newest(None, None, skipped)

    def record(self) -> Manifest | None:
        """The newest manifest that can be read, or that of `which`: what it was trained with. No file is checked."""
        return self._newest_manifest(None if self._which in (None, "newest") else self._step(self._which))

    def _newest_manifest(self, step: int | None = None) -> Manifest | None:
        for checkpoint in self.checkpoints():
            with suppress(Invalid):
                if step in (None, checkpoint.step):
                    return read_manifest(checkpoint.folder)
        return None

    def chosen(self, which: Which = None, file: str = WEIGHTS) -> tuple[Checkpoint, Manifest]:
        """The checkpoint of a step, `best`, or the newest valid one (`newest`, None), of which `file` is checked.

        That newer ones were passed over is told.

        Raises UserError, with reasons, where there is none.
        """
        self.check_exists()
        if which in (None, "newest"):
            found = self.newest(file)
        else:
            step = self._step(which)
            missing = Checkpoint(self.checkpoint_folder / f"step-{step}", step)
            checkpoint = next((one for one in self.checkpoints() if one.step == step), missing)
            try:
                found = Newest(checkpoint, checkpoint.check(file), {})
            except Invalid as error:
                found = Newest(None, None, {checkpoint.folder.name: str(error)})
        if found.checkpoint is None or found.manifest is None:
            raise UserError(f"{self.path} holds no valid checkpoint{self._hint(which)}{_because(found.skipped)}")
        if found.skipped:
            warn_once(
                f"{self.path}: the checkpoint of step {found.checkpoint.step}, since newer ones cannot be used"
                f"{_because(found.skipped)}"
            )
        return found.checkpoint, found.manifest

    def check_has(self, which: Which = None) -> None:
        """Raises UserError where there is no such checkpoint (`chosen`). Of its files only the manifest is read."""
        self.check_exists()
        if Run(self.path, which).record() is None:
            said = "" if which in (None, "newest") else f" of step {self._step(which)}"
            raise UserError(f"{self.path} holds no checkpoint{said}{self._hint(which)}")

    def _hint(self, which: Which) -> str:
        """The steps that there are, where one was asked for."""
        steps = ", ".join(str(one.step) for one in reversed(list(self.checkpoints())))
        return f"; it has checkpoints of the steps {steps}" if steps and which is not None else ""

    def weights(self, which: Which = None, file: str = WEIGHTS) -> dict[str, Tensor]:
        """The weights of a checkpoint (`chosen`), on the CPU. Raises UserError where there is none."""
        from hybridkit.runs.weights import read_tensors

        checkpoint, _ = self.chosen(which, file)
        try:
            return read_tensors(checkpoint.folder / file)
        except Invalid as error:
            raise UserError(f"{checkpoint.folder}: {error}") from error

    def _step(self, which: Which) -> int:
        return self._best() if which == "best" else _step(which)

    def _best(self) -> int:
        """The step of the checkpoint that is best by `train.best`, or else by val_loss."""
        metric = self.read_recipe().recipe.train.best or "val_loss"
        steps = {checkpoint.step for checkpoint in self.checkpoints()}
        best: tuple[int, float] | None = None
        for line in self.metrics().lines:
            value = line.get(metric)
            if line["step"] in steps and value is not None and (best is None or better(metric, value, best[1])):
                best = line["step"], value
        if best is None:
            raise UserError(
                f"{self.path}: no checkpoint was made where {metric} was measured; name a step, or `newest`"
            )
        return best[0]

    def check_exists(self) -> None:
        """Raises UserError where there is no such folder, or it is none that a run may be in."""
        if not self.path.exists():
            close = nearest(str(self.path), [str(path) for path in _beside(self.path) if Run(path).begun])
            hint = f"did you mean {close}?" if close else "`hybridkit train` makes one"
            raise UserError(f"{self.path}: no such run folder; {hint}")
        if not self.path.is_dir() or kind(self.path) == "a study folder":
            raise UserError(explain(self.path, "a run folder"))


def _step(which: Which) -> int:
    if not re.fullmatch("[0-9]{1,18}", str(which), re.ASCII):
        raise UserError(f"checkpoint {which}: should be a step, `best` or `newest`")
    return int(str(which))


def _beside(path: Path) -> list[Path]:
    """The folders that stand where `path` would."""
    return [other for other in path.parent.iterdir() if other.is_dir()] if path.parent.is_dir() else []


def _because(skipped: dict[str, str]) -> str:
    return "".join(f"\n  {name}: {reason}" for name, reason in skipped.items())


def load_recipe(name: str | Path, overrides: Sequence[str] = (), run: Path | None = None) -> Loaded:
    """Read a recipe (recipe.files.read_recipe). One that lies in a run folder may name the run's own plug-ins.

    `run`: the folder whose plug-ins it may name, by default that of a file `recipe.yaml`.
    """

    def known(path: Path, names: Set[str]) -> Registry:
        return registry_of(Run(run or path.parent), names) if run or path.name == RUN_RECIPE else REGISTRY

    return read_recipe(name, overrides, known)
