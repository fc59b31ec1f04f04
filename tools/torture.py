"""Kills, fills disks and damages checkpoints, and checks that training goes on as if nothing had happened.

Run: python tools/torture.py --kills 200 --damages 500 --disks 50 --folder /tmp/torture

Each row of the table it prints is a way to spoil a run; after each the run is resumed, and must end with the files of
an uninterrupted run (weights, optimizer and state by their SHA-256) and its metrics (but for figures of time):

- SIGKILL at random moments of the whole run, in fresh processes first and then in forks (tools/forks.py);
- the process ending itself with SIGKILL, or ENOSPC raised, at every single write, fsync, rename and removal in turn;
- a real file system that is too small, of many sizes, and is then made larger;
- bytes of the newest checkpoint changed and its files cut, all found, a sample also resumed; then every byte in turn.

One core. Exit code 1 if anything differs.
"""

import argparse
import errno
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from damage import DAMAGES, each_byte, newest_before, spoil
from forks import Command, Mounts, Process

RECIPE = """\
pattern: [swa:stoch(4,16,p=.5), mlstm]*1
model: {{width: 16, heads: 2}}
data: {{source: {text}, sequence: 32, validation: .2}}
train: {{steps: 40, batch_tokens: 128, lr: 1e-2, min_lr: 1e-3, validate_every: 20, checkpoint_every: 2, keep: 2,
  precision: fp32, device: cpu}}
"""
SHORT = ("train.steps=6",)  # for faults at every operation
TIMED = ("seconds", "tokens_per_second", "mfu")
OPERATIONS = ("write", "tensors", "fsync", "rename", "remove")
FRESH = 20  # kills of processes that are no forks
RESUMED = 10  # of so many damages one is also resumed
DISK = 4096  # bytes: a small disk's sizes are multiples
SAME = "resumed bit for bit"


def main() -> int:
    """Run all kinds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--damages", type=int, default=50)
    parser.add_argument("--disks", type=int, default=5)
    parser.add_argument("--folder", type=Path, required=True, help="a new folder; removed at the end if all went well")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    draw, bench = random.Random(options.seed), Bench(options.folder.resolve())
    few = min(FRESH, options.kills)
    rows: dict[str, Callable[[], Iterator[str]]] = {
        "SIGKILL of a fresh process at a random moment": lambda: bench.kills(few, draw, forked=False),
        "SIGKILL of a forked process at a random moment": lambda: bench.kills(options.kills - few, draw, forked=True),
        "SIGKILL at each file operation": lambda: bench.faults(_die, -signal.SIGKILL),
        "ENOSPC at each file operation": lambda: bench.faults(_full, 1),
        "a disk that is too small, then larger": lambda: bench.disks(options.disks),
        "a random change of the newest checkpoint": lambda: bench.damages(options.damages, draw),
        "each byte of the newest checkpoint changed in turn": lambda: each_byte(bench.short, draw),
    }
    wrong = 0
    print("| what | times | seconds | outcomes |\n|---|---|---|---|", flush=True)
    for name, row in rows.items():
        began, outcomes = time.monotonic(), Counter(row())
        said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        print(f"| {name} | {outcomes.total()} | {time.monotonic() - began:.0f} | {said} |", flush=True)
        wrong += sum(count for outcome, count in outcomes.items() if "WRONG" in outcome)
    if not wrong:
        shutil.rmtree(options.folder)
    return 1 if wrong else 0


class Bench:
    """A recipe, its uninterrupted runs, and ways to spoil others. Each way yields the outcome of each time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "text").mkdir()
        words = random.Random(0)
        for number in range(6):
            said = (words.choice(["window", "state", "short", "long"]) for _ in range(60))
            (folder / "text" / f"{number}.txt").write_text(" ".join(said), encoding="utf-8")
        recipe = folder / "tiny.yaml"
        recipe.write_text(RECIPE.format(text=folder / "text"), encoding="utf-8")
        self._command = Command(recipe)
        self.whole, self.short = folder / "whole", folder / "short"
        assert self._command.fresh(self.whole).wait() == 0
        assert self._command.fork(self.short, *SHORT).wait() == 0

    def kills(self, times: int, draw: random.Random, *, forked: bool) -> Iterator[str]:
        """Kill a run at a random moment, go on, kill again, ... until it is done; and so on with another run."""
        start = self._command.fork if forked else self._command.fresh
        lasts = self._timed(start)
        done, round_ = 0, 0
        while done < times:
            run, round_ = self._folder / f"kill-{forked}-{round_}", round_ + 1
            moments = []
            while done + len(moments) < times:
                before = _stamp(run)
                process = start(run)
                if not process.kill_after(lambda r=run, b=before: _stamp(r) != b, draw.uniform(0, lasts)):
                    break
                moments.append(_moment(run))
            verdict = self._finish(run, self.whole)
            done += len(moments)
            yield from (f"{moment}, {verdict}" for moment in moments)
            if not moments:  # the machine is faster than it was
                lasts = self._timed(start)
                if verdict != SAME:
                    yield verdict

    def _timed(self, start: Callable[[Path], Process]) -> float:
        """How long a run lasts from when it has locked its folder, in seconds."""
        run = self._folder / "timed"
        assert start(run).wait() == 0
        lasts = time.time() - _stamp(run) / 1e9
        assert self._judge(run, self.whole) == SAME
        return lasts

    def faults(self, fault: Callable[[], None], code: int) -> Iterator[str]:
        """Let `fault` happen at the first operation, at the second, ... until a run makes no more."""
        for at in range(1, 10**6):
            run = self._folder / f"fault-{code}-{at}"
            note = run.with_suffix(".note")
            process = self._command.fork(run, *SHORT, first=lambda r=run, n=note, a=at: _intrude(r, n, a, fault))
            ended = process.wait()
            if not note.exists():
                assert ended == 0
                shutil.rmtree(run)
                return
            if ended != code or (code > 0 and not _plain(process.said)):
                yield f"WRONG: exit code {ended} after {note.read_text(encoding='utf-8')}: {process.said}"
            elif _newest(run) < json.loads(note.read_text(encoding="utf-8")):
                yield "WRONG: a valid checkpoint was lost"
            else:
                yield self._finish(run, self.short, *SHORT)

    def disks(self, times: int) -> Iterator[str]:
        """Train on disks from far too small to almost large enough, and go on after they grew."""
        size = sum(path.stat().st_blocks * 512 for path in self.short.rglob("*")) * 3 // 2  # a third is being written
        for turn in range(times):
            run = self._folder / f"disk-{turn}"
            run.mkdir()
            pages = 1 + turn * (size // DISK) // times
            pid = os.fork()
            if pid == 0:
                self._on_small_disk(run, pages * DISK)
            os.waitpid(pid, 0)
            verdict = run.with_suffix(".verdict")
            yield verdict.read_text(encoding="utf-8") if verdict.exists() else "WRONG: no verdict"

    def _on_small_disk(self, run: Path, size: int) -> None:
        """In a process of its own, which keeps the disk to itself."""
        verdict = "WRONG: it went wrong"
        try:
            mounts = Mounts()
            mounts.small(run, size)
            process = self._command.fork(run, *SHORT)
            code = process.wait()
            mounts.grow(run, 1 << 30)
            if code == 0:
                verdict = f"large enough, {self._finish(run, self.short, *SHORT)}"
            elif code != 1 or not _plain(process.said):
                verdict = f"WRONG: exit code {code}: {process.said}"
            else:
                verdict = f"full, {self._finish(run, self.short, *SHORT)}"
        except OSError as error:
            verdict = f"not possible here ({error})"
        finally:
            run.with_suffix(".verdict").write_text(verdict, encoding="utf-8")
            os._exit(0)

    def damages(self, times: int, draw: random.Random) -> Iterator[str]:
        """Spoil one file of the newest checkpoint, look whether that is found, and now and then resume."""
        for turn in range(times):
            run = self._folder / f"damage-{turn}"
            shutil.copytree(self.short, run)
            newest = run / "checkpoints" / "step-6"
            kind = list(DAMAGES)[turn % len(DAMAGES)]
            path = sorted(newest.iterdir())[turn // len(DAMAGES) % 4]
            spoil(path, kind, draw)
            found = newest_before(run, 6)
            if found is not None:
                yield f"WRONG: {kind} of {path.name}: {found}"
            elif turn // len(DAMAGES) % RESUMED == turn % RESUMED:
                verdict = self._finish(run, self.short, *SHORT)
                aside = (newest.parent / "damaged-step-6").exists() or verdict != SAME or not run.exists()
                yield f"found and {verdict}" if aside else "WRONG: not put aside"
            else:
                yield "found"
            shutil.rmtree(run, ignore_errors=True)

    def _finish(self, run: Path, whole: Path, *overrides: str) -> str:
        """Resume to the end and compare; a run that is as it should be is removed."""
        process = self._command.fork(run, *overrides)
        if (code := process.wait()) != 0:
            return f"WRONG: not resumed, exit code {code}: {process.said}"
        return self._judge(run, whole)

    def _judge(self, run: Path, whole: Path) -> str:
        from hybridkit.runs.run import Run

        ours, theirs = Run(run), Run(whole)
        found, expected = ours.newest(), theirs.newest()
        assert expected.manifest and not expected.skipped
        if found.manifest is None or found.skipped or found.manifest.step != expected.manifest.step:
            return "WRONG: no valid checkpoint at the end"
        if found.manifest.files != expected.manifest.files:
            return "WRONG: other weights, optimizer or state"
        if _untimed(ours) != _untimed(theirs):
            return "WRONG: other metrics"
        if list(ours.checkpoint_folder.glob(".*")):
            return "WRONG: leftovers"
        for path in (run, run.with_name(f"{run.name}.cache")):
            shutil.rmtree(path, ignore_errors=True)
        return SAME


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _plain(said: str) -> bool:
    """Whether a full disk was reported in words."""
    return os.strerror(errno.ENOSPC) in said and "Traceback" not in said


def _moment(run: Path) -> str:
    """What a killed run was about."""
    checkpoints = run / "checkpoints"
    if not (run / "recipe.yaml").exists():
        return "before the run began"
    if list(checkpoints.glob(".*.part")):
        return "in a save"
    if list(checkpoints.glob(".*.old")):
        return "in a removal"
    return "between saves" if list(checkpoints.glob("step-*")) else "before the first save"


def _stamp(run: Path) -> int:
    """When a process last locked the run, in nanoseconds; 0: never."""
    lock = run / ".lock"
    return lock.stat().st_mtime_ns if lock.exists() else 0


def _newest(run: Path) -> int:
    """The step of the newest valid checkpoint, 0 without one."""
    from hybridkit.runs.run import Run

    found = Run(run).newest()
    return found.checkpoint.step if found.checkpoint else 0


def _intrude(run: Path, note: Path, at: int, fault: Callable[[], None]) -> None:
    """Make operation number `at` of this process end in `fault`, half done where it can be, noting what is valid."""
    from hybridkit.system.files import FileOperations

    count = 0

    def wrapped(whole: Callable[..., None], name: str) -> Callable[..., None]:
        def operation(self: FileOperations, *args: Any) -> None:
            nonlocal count
            count += 1
            if count == at:
                note.write_text(json.dumps(_newest(run)), encoding="utf-8")
                if name == "write":
                    whole(self, args[0], args[1][: len(args[1]) // 2])
                fault()
            whole(self, *args)

        return operation

    for name in OPERATIONS:
        setattr(FileOperations, name, wrapped(getattr(FileOperations, name), name))


def _untimed(run: Any) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in TIMED} for line in run.metrics().lines]


if __name__ == "__main__":
    sys.exit(main())
