"""Writing checkpoints: a hidden folder is filled, hashed into a manifest, fsynced and then renamed, once complete.

Within `checkpoints/`, `step-N` is a checkpoint, `.step-N.*` a leftover of a killed write, and `damaged-step-N` one that
a resumed run passed over.
"""

import json
import os
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

from hybridkit.recipe.schema import Train
from hybridkit.runs.manifest import NAME, STATE, Manifest, sealed, stamp
from hybridkit.runs.run import Checkpoint, Run
from hybridkit.system.background import Background
from hybridkit.system.files import FILES
from hybridkit.training.engine import Save
from hybridkit.training.state import TrainState


class Store:
    """The checkpoints of one run. Rank 0 makes the folders; every rank writes its part of the files.

    A checkpoint is scheduled where its step is a multiple of `train.checkpoint_every` or the last; the others were
    made on a signal. They change neither which scheduled ones are kept nor where a rollback returns to.
    `lead`: this is rank 0. `barrier` waits for all ranks.
    """

    def __init__(self, run: Run, train: Train, *, lead: bool, barrier: Callable[[], object]) -> None:
        self._folder, self._run, self._train = run.checkpoint_folder, run, train
        self._lead, self._barrier = lead, barrier
        self._background = Background()
        self.last: Checkpoint | None = None  # the newest one known to be valid

    def open(self, last: Checkpoint | None, skipped: dict[str, str], needed: Set[int]) -> None:
        """Begin after `last`: leftovers of killed writes are removed, and damaged checkpoints are renamed.

        `needed`: the steps of checkpoints that are kept in any case.
        """
        self.last = last
        self._barrier()  # all ranks have found the newest one
        if not self._lead:
            return
        self._folder.mkdir(exist_ok=True)
        sweep(self._run)
        for name in skipped:
            FILES.rename(self._folder / name, _free(self._folder / f"damaged-{name}"))
        self._prune(needed)  # an earlier process may have ended before it did this

    def save(self, save: Save, state: TrainState, about: dict[str, Any]) -> None:
        """Write a checkpoint: in the background where the save is detached; one at a time.

        Raises OSError for this one or the one before.
        """
        self.wait()
        state = state.model_copy()
        write = lambda: self._write(save.write, state, about)  # noqa: E731
        if save.detached:
            self._background.start(write)
        else:
            write()

    def wait(self) -> None:
        """Until the background has written. Raises OSError where that failed."""
        self._background.wait()

    def check(self) -> None:
        """Raises OSError where the background failed; does not wait."""
        self._background.check()

    def close(self) -> None:
        """Wait at the end of a run; an error of the background was raised before, or another one is."""
        with suppress(OSError):
            self.wait()

    def _write(self, write: Callable[[Path], None], state: TrainState, about: dict[str, Any]) -> None:
        step = about["step"]
        part = self._folder / f".step-{step}.part"
        try:
            if self._lead:
                part.mkdir()
            self._barrier()
            write(part)
            self._barrier()
            if self._lead:
                self._commit(part, state, about)
        except OSError:
            if self._lead and part.exists():
                FILES.remove(part)
            raise
        self.last = Checkpoint(self._folder / f"step-{step}", step)
        self._barrier()
        if self._lead:
            done = step == self._train.steps or state.stopped
            self._prune(state.needed - ({state.scheduled} if done and state.scheduled != state.best else set()))

    def _commit(self, part: Path, state: TrainState, about: dict[str, Any]) -> None:
        """Seal a complete folder and give it its name."""
        _write(part / STATE, json.dumps(state.model_dump()).encode())
        files = sorted(path for path in part.rglob("*") if path.is_file())
        manifest = Manifest(files={str(path.relative_to(part)): stamp(path) for path in files}, **about)
        _write(part / NAME, sealed(manifest))
        for path in sorted(part.rglob("*")):
            FILES.fsync(path)
        FILES.fsync(part)
        FILES.rename(part, self._folder / f"step-{manifest.step}")
        FILES.fsync(self._folder)

    def has(self, step: int | None) -> bool:
        """Whether the checkpoint of a step is there, valid or not."""
        return step is not None and (self._folder / f"step-{step}").is_dir()

    def return_to(self, step: int) -> Checkpoint:
        """The checkpoint of an earlier step, checked; later ones are removed, since they no longer apply.

        Raises Invalid.
        """
        self.wait()
        checkpoint = Checkpoint(self._folder / f"step-{step}", step)
        checkpoint.check()
        self._barrier()
        if self._lead:
            for later in (one for one in self._run.checkpoints() if one.step > step):
                _remove(later)
        self._barrier()
        self.last = checkpoint
        return checkpoint

    def _prune(self, needed: Set[int]) -> None:
        """Remove the checkpoints that `_spare` lists, except those of the steps `needed`."""
        for old in _spare(list(self._run.checkpoints()), self._train):
            if old.step not in needed:
                _remove(old)


def is_scheduled(step: int, train: Train) -> bool:
    """Whether a checkpoint is due after `step` updates, signals aside."""
    return step % train.checkpoint_every == 0 or step == train.steps


def _spare(found: Sequence[Checkpoint], train: Train) -> list[Checkpoint]:
    """Of checkpoints, newest first, those that are not kept.

    Kept are the newest `keep` scheduled ones, for good every `keep_every`-th, and of those made on a signal the newest
    `keep`, unless all scheduled ones that are kept are newer.
    """
    lasting = train.keep_every * train.checkpoint_every
    scheduled = [one for one in found if is_scheduled(one.step, train)]
    asked = [one for one in found if not is_scheduled(one.step, train)]
    oldest = scheduled[train.keep - 1].step if len(scheduled) >= train.keep else 0
    spare = [one for one in scheduled[train.keep :] if not lasting or one.step % lasting]
    return spare + [one for place, one in enumerate(asked) if place >= train.keep or one.step < oldest]


def _remove(checkpoint: Checkpoint) -> None:
    """Rename the folder first, so that no incomplete checkpoint has the name of one."""
    away = checkpoint.folder.with_name(f".{checkpoint.folder.name}.old")
    FILES.rename(checkpoint.folder, away)
    FILES.remove(away)


def sweep(run: Run) -> None:
    """Remove what killed writes and removals left. Raises OSError."""
    for path in run.checkpoint_folder.glob(".step-*"):
        FILES.remove(path)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        FILES.write(file, content)


def _free(path: Path) -> Path:
    """The path, or one with a number behind it where it is taken."""
    number = 1
    free = path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free
