"""A run folder as `train` writes it, read without trusting it: YAML, JSON and safetensors, nothing executable."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hybridkit.system.errors import UserError, nearest
from hybridkit.system.folders import explain, kind
from hybridkit.runs.manifest import STATE, WEIGHTS, Invalid, Manifest, check_files, read_manifest
from hybridkit.runs.metrics import Metrics, read_metrics
from hybridkit.recipe.rules import CURRENT, FIRST

if TYPE_CHECKING:
    from torch import Tensor

    from hybridkit.data.tokenizers.base import Tokenizer
    from hybridkit.recipe.files import Loaded

_STEP = re.compile(r"step-(0|[1-9][0-9]{0,17})", re.ASCII)


class Checkpoint(NamedTuple):
    """A folder `checkpoints/step-N`, valid or not."""

    folder: Path
    step: int

    def check(self, *names: str) -> Manifest:
        """The manifest, after each of `names`, or every file where none is given, was found to agree with it.

        Raises Invalid.
        """
        manifest = read_manifest(self.folder)
        check_files(self.folder, manifest, names or {WEIGHTS, STATE, *manifest.files})
        return manifest


class Found(NamedTuple):
    """The newest valid checkpoint, and why newer ones are not."""

    checkpoint: Checkpoint | None
    manifest: Manifest | None
    skipped: dict[str, str]  # name of the folder -> reason


class Run:
    """The layout of a run folder, and what can be read from it; the folder need not exist yet."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.recipe_file = self.path / "recipe.yaml"
        self.metrics_file = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoint_folder = self.path / "checkpoints"

    @property
    def begun(self) -> bool:
        """Whether the folder holds a run."""
        return any(p.exists() for p in (self.recipe_file, self.metrics_file, self.checkpoint_folder))

    @property
    def recipe(self) -> Loaded:
        """The resolved recipe that was trained, with the rules it was made by.

        Raises UserError where there is none, or it cannot be read.
        """
        from hybridkit.recipe.files import load

        self._exists()
        if not self.recipe_file.is_file():
            if self.begun:
                raise UserError(f"{self.path}: a run folder that holds no {self.recipe_file.name}; put it back")
            raise UserError(explain(self.path, "a run folder"))
        loaded = load(str(self.recipe_file), [])
        rules = loaded.recipe.rules or FIRST
        return loaded._replace(recipe=loaded.recipe.model_copy(update={"rules": rules}))

    def metrics(self) -> Metrics:
        """The lines of metrics.jsonl, and how many could not be read."""
        return read_metrics(self.metrics_file)

    def checkpoints(self) -> Iterator[Checkpoint]:
        """All of them, newest first, not checked yet."""
        names = [path.name for path in self.checkpoint_folder.iterdir()] if self.checkpoint_folder.is_dir() else []
        steps = [int(match[1]) for name in names if (match := _STEP.fullmatch(name))]
        yield from (Checkpoint(self.checkpoint_folder / f"step-{step}", step) for step in sorted(steps, reverse=True))

    def newest(self, *names: str) -> Found:
        """The newest checkpoint of which `names`, or all files where none is given, agree with the manifest."""
        skipped: dict[str, str] = {}
        for checkpoint in self.checkpoints():
            try:
                return Found(checkpoint, checkpoint.check(*names), skipped)
            except Invalid as error:
                skipped[checkpoint.folder.name] = str(error)
        return Found(None, None, skipped)

    def record(self) -> Manifest | None:
        """The newest manifest that can be read: what the run was trained with. Its files are not looked at."""
        for checkpoint in self.checkpoints():
            with suppress(Invalid):
                return read_manifest(checkpoint.folder)
        return None

    def tokenizer(self, rules: int | None = None) -> Tokenizer:
        """The run's own copy of its tokenizer, as `rules` have it (None: the current ones).

        Raises UserError where it is damaged, or not the recorded one.
        """
        from hybridkit.data.tokenizers.base import SAVED, load_tokenizer

        self._exists()
        found, manifest = load_tokenizer(self.path, rules or CURRENT), self.record()
        wanted = manifest.tokenizer if manifest else None
        if wanted not in (None, found.digest):
            now = f"has sha256 {found.digest}" if (self.path / SAVED).exists() else "is missing"
            raise UserError(
                f"{self.path / SAVED} is not the tokenizer that the run was trained with: it {now},"
                f" and the run's record says {wanted}; put it back"
            )
        return found

    def weights(self, step: int | None = None) -> dict[str, Tensor]:
        """The newest valid checkpoint's weights, or those of a step, on the CPU.

        Raises UserError, with reasons, where there is none.
        """
        from hybridkit.runs.weights import read_tensors

        self._exists()
        found = self.newest(WEIGHTS) if step is None else self._at(step)
        if found.checkpoint is None:
            raise UserError(f"{self.path} holds no valid checkpoint{_because(found.skipped)}")
        try:
            return read_tensors(found.checkpoint.folder / WEIGHTS)
        except Invalid as error:
            raise UserError(f"{found.checkpoint.folder}: {error}") from error

    def _at(self, step: int) -> Found:
        """The checkpoint of a step, if it is valid."""
        checkpoint = Checkpoint(self.checkpoint_folder / f"step-{step}", step)
        try:
            return Found(checkpoint, checkpoint.check(WEIGHTS), {})
        except Invalid as error:
            return Found(None, None, {checkpoint.folder.name: str(error)})

    def _exists(self) -> None:
        if not self.path.exists():
            close = nearest(str(self.path), [str(path) for path in _beside(self.path) if Run(path).begun])
            hint = f"did you mean {close}?" if close else "`hybridkit train` makes one"
            raise UserError(f"{self.path}: no such run folder; {hint}")
        if not self.path.is_dir() or kind(self.path) == "a study folder":
            raise UserError(explain(self.path, "a run folder"))


def _beside(path: Path) -> list[Path]:
    """The folders that stand where `path` would."""
    return [other for other in path.parent.iterdir() if other.is_dir()] if path.parent.is_dir() else []


def refuse_links(paths: Iterable[Path]) -> None:
    """Raises UserError where one of `paths`, which are about to be written, is a symbolic link.

    Whoever made a folder could otherwise choose which of its reader's files is overwritten.
    """
    for path in paths:
        if path.is_symlink():
            raise UserError(f"{path} is a symbolic link, through which nothing is written; remove it")


def check_tree(folder: Path) -> None:
    """Raises UserError where `folder` holds anything but files and folders, at any depth: a link, a pipe, a device.

    For folders that are about to be written into, which somebody else may have made.
    """
    left = [folder]
    while left:
        for entry in _entries(left.pop()):
            path = Path(entry.path)
            if entry.is_symlink():
                refuse_links([path])
            elif entry.is_dir(follow_symlinks=False):
                left.append(path)
            elif not entry.is_file(follow_symlinks=False):
                raise UserError(f"{path} is neither a file nor a folder; remove it")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:  # another process has removed it since
        return []


def _because(skipped: dict[str, str]) -> str:
    return "".join(f"\n  {name}: {reason}" for name, reason in skipped.items())
