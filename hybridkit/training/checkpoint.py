"""Writing checkpoints: beside, hashed into a manifest, fsynced, then renamed; what is not complete does not exist.

Within `checkpoints/`, `step-N` is a checkpoint, `.step-N.*` a leftover of a killed write, and `damaged-step-N` one that
a resumed run passed over.
"""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hybridkit.recipe.schema import Train
from hybridkit.runs.manifest import NAME, STATE, Manifest, sealed, stamp
from hybridkit.runs.run import Checkpoint, Run
from hybridkit.system.background import Background
from hybridkit.system.files import FILES
from hybridkit.training.engine import Save


class Store:
    """The checkpoints of one run, for the process that writes them and for those that write their share.

    A checkpoint is scheduled where its step is a multiple of `train.checkpoint_every` or the last; the others were
    made on a signal, and change nothing: neither which scheduled ones are kept, nor where a rollback returns to.
    `lead`: this is rank 0. `barrier` waits for all ranks.
    """

    def __init__(self, run: Run, train: Train, *, lead: bool, barrier: Callable[[], object]) -> None:
        self._folder, self._run, self._train = run.checkpoint_folder, run, train
        self._lead, self._barrier = lead, barrier
        self._background = Background()
        self.last: Checkpoint | None = None  # the newest one known to be valid

    def open(self, last: Checkpoint | None, skipped: dict[str, str], needed: int | None) -> None:
        """Begin after `last`: leftovers go away, and what was passed over makes room under another name.

        `needed`: the step of a checkpoint that stays, whatever else is removed.
        """
        self.last = last
        self._barrier()  # nobody is still looking for the newest
        if not self._lead:
            return
        self._folder.mkdir(exist_ok=True)
        sweep(self._run)
        for name in skipped:
            FILES.rename(self._folder / name, _free(self._folder / f"damaged-{name}"))
        self._prune(needed)  # a disk may be full because this never came to its turn

    def save(self, save: Save, state: dict[str, Any], about: dict[str, Any]) -> None:
        """Write a checkpoint: in the background where the save is detached; at most one is on its way.

        Raises OSError for this one or the one before.
        """
        self.wait()
        write = lambda: self._write(save.write, state, about)  # noqa: E731
        if save.detached:
            self._background.start(write)
        else:
            write()

    def wait(self) -> None:
        """Until nothing is on its way. Raises OSError where that could not be written."""
        self._background.wait()

    def check(self) -> None:
        """Raises OSError where what was on its way could not be written; does not wait."""
        self._background.check()

    def close(self) -> None:
        """Wait at the end of a run, which has said already what went wrong, if anything did."""
        with suppress(OSError):
            self.wait()

    def _write(self, write: Callable[[Path], None], state: dict[str, Any], about: dict[str, Any]) -> None:
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
            self._prune(state["scheduled"] if step < self._train.steps else None)

    def _commit(self, part: Path, state: dict[str, Any], about: dict[str, Any]) -> None:
        """Seal a complete folder and give it its name."""
        _write(part / STATE, json.dumps(state).encode())
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
        """The checkpoint of an earlier step, checked; those after it are removed, since they hold another future.

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

    def _prune(self, needed: int | None) -> None:
        """Remove the checkpoints that `_spare` gives up, but for that of step `needed`."""
        for old in _spare(list(self._run.checkpoints()), self._train):
            if old.step != needed:
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
    """A folder first loses its name: what is not complete does not exist."""
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
