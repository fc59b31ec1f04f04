"""Kill training, fill its disk and corrupt its checkpoints; check that the resumed run equals an uninterrupted one.

    python tools/stress/fault_injection.py --kills 200 --corruptions 500 --disks 50 --folder /tmp/faults

Each row of the printed table is a kind of fault. After a fault the run is resumed; it must then have the checkpoint of
an uninterrupted run (weights, optimizer and state compared by SHA-256) and the same metrics, except for times:

- SIGKILL at random moments of the run, first of new processes, then of forks (tools/stress/process_harness.py);
- SIGKILL, or an ENOSPC error, at each write, fsync, rename and removal of a run in turn;
- a file system that is too small, of many sizes, which is then made larger;
- changed bytes and truncated files in the newest checkpoint: every change must be detected, and a part of the runs is
  also resumed; then each byte is changed in turn.

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

from corruption import CORRUPTIONS, corrupt, detection_error, each_byte
from process_harness import Command, Mounts, Process

RECIPE = """\
pattern: [swa:stoch(4,16,p=.5), mlstm]*1
model: {{width: 16, heads: 2}}
data: {{source: {text}, sequence: 32, validation: .2}}
train: {{steps: 40, batch_tokens: 128, lr: 1e-2, min_lr: 1e-3, validate_every: 20, checkpoint_every: 2, keep: 2,
  precision: fp32, device: cpu}}
"""
SHORT = ("train.steps=6",)  # runs with a fault at each operation are short
TIMES = ("seconds", "tokens_per_second", "mfu")
OPERATIONS = ("write", "tensors", "fsync", "rename", "remove")
NEW_PROCESSES = 20  # kills of new processes; all others are forks
RESUME_EVERY = 10  # one in so many corrupted runs is also resumed
PAGE = 4096  # bytes; sizes of small disks are multiples
IDENTICAL = "resumed bit for bit"


def main() -> int:
    """Inject all kinds of faults and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--corruptions", type=int, default=50)
    parser.add_argument("--disks", type=int, default=5)
    parser.add_argument("--folder", type=Path, required=True, help="a new folder; removed at the end if all went well")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    draw, bench = random.Random(options.seed), FaultBench(options.folder.resolve())
    few = min(NEW_PROCESSES, options.kills)
    rows: dict[str, Callable[[], Iterator[str]]] = {
        "SIGKILL of a fresh process at a random moment": lambda: bench.kills(few, draw, forked=False),
        "SIGKILL of a forked process at a random moment": lambda: bench.kills(options.kills - few, draw, forked=True),
        "SIGKILL at each file operation": lambda: bench.faults(_kill_self, -signal.SIGKILL),
        "ENOSPC at each file operation": lambda: bench.faults(_raise_no_space, 1),
        "a disk that is too small, then larger": lambda: bench.disks(options.disks),
        "a random change of the newest checkpoint": lambda: bench.corruptions(options.corruptions, draw),
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


class FaultBench:
    """A recipe, its uninterrupted runs, and the kinds of faults. Each kind yields one outcome for each fault."""

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
        """Kill a run at a random moment, resume it, kill it again, ... until it ends; then begin with a new run."""
        start = self._command.fork if forked else self._command.fresh
        lasts = self._timed(start)
        done, round_ = 0, 0
        while done < times:
            run, round_ = self._folder / f"kill-{forked}-{round_}", round_ + 1
            moments = []
            while done + len(moments) < times:
                before = _lock_time(run)
                process = start(run)
                if not process.kill_after(lambda r=run, b=before: _lock_time(r) != b, draw.uniform(0, lasts)):
                    break
                moments.append(_phase(run))
            result = self._finish(run, self.whole)
            done += len(moments)
            yield from (f"{moment}, {result}" for moment in moments)
            if not moments:  # the run ended before the kill: measure its time again
                lasts = self._timed(start)
                if result != IDENTICAL:
                    yield result

    def _timed(self, start: Callable[[Path], Process]) -> float:
        """Seconds of a run, from when it has locked its folder."""
        run = self._folder / "timed"
        assert start(run).wait() == 0
        lasts = time.time() - _lock_time(run) / 1e9
        assert self._compare(run, self.whole) == IDENTICAL
        return lasts

    def faults(self, fault: Callable[[], None], code: int) -> Iterator[str]:
        """Inject `fault` at the first file operation, then at the second, ... until a run has no more operations."""
        for at in range(1, 10**6):
            run = self._folder / f"fault-{code}-{at}"
            note = run.with_suffix(".note")
            process = self._command.fork(run, *SHORT, first=lambda r=run, n=note, a=at: _inject(r, n, a, fault))
            ended = process.wait()
            if not note.exists():
                assert ended == 0
                shutil.rmtree(run)
                return
            if ended != code or (code > 0 and not _reports_full_disk(process.stderr)):
                yield f"WRONG: exit code {ended} after {note.read_text(encoding='utf-8')}: {process.stderr}"
            elif _newest(run) < json.loads(note.read_text(encoding="utf-8")):
                yield "WRONG: a valid checkpoint was lost"
            else:
                yield self._finish(run, self.short, *SHORT)

    def disks(self, times: int) -> Iterator[str]:
        """Train on disks from far too small to almost large enough; enlarge each disk and resume."""
        size = sum(path.stat().st_blocks * 512 for path in self.short.rglob("*")) * 3 // 2  # during a save more
        for turn in range(times):
            run = self._folder / f"disk-{turn}"
            run.mkdir()
            pages = 1 + turn * (size // PAGE) // times
            pid = os.fork()
            if pid == 0:
                self._on_small_disk(run, pages * PAGE)
            os.waitpid(pid, 0)
            result = run.with_suffix(".result")
            yield result.read_text(encoding="utf-8") if result.exists() else "WRONG: no result"

    def _on_small_disk(self, run: Path, size: int) -> None:
        """In a new process, which alone sees the disk; the result is left in a file."""
        result = "WRONG: the test itself failed"
        try:
            mounts = Mounts()
            mounts.small(run, size)
            process = self._command.fork(run, *SHORT)
            code = process.wait()
            mounts.grow(run, 1 << 30)
            if code == 0:
                result = f"large enough, {self._finish(run, self.short, *SHORT)}"
            elif code != 1 or not _reports_full_disk(process.stderr):
                result = f"WRONG: exit code {code}: {process.stderr}"
            else:
                result = f"full, {self._finish(run, self.short, *SHORT)}"
        except OSError as error:
            result = f"not possible here ({error})"
        finally:
            run.with_suffix(".result").write_text(result, encoding="utf-8")
            os._exit(0)

    def corruptions(self, times: int, draw: random.Random) -> Iterator[str]:
        """Corrupt one file of the newest checkpoint, check that this is detected, and resume some of the runs."""
        for turn in range(times):
            run = self._folder / f"damage-{turn}"
            shutil.copytree(self.short, run)
            newest = run / "checkpoints" / "step-6"
            kind = list(CORRUPTIONS)[turn % len(CORRUPTIONS)]
            path = sorted(newest.iterdir())[turn // len(CORRUPTIONS) % 4]
            corrupt(path, kind, draw)
            found = detection_error(run, 6)
            if found is not None:
                yield f"WRONG: {kind} of {path.name}: {found}"
            elif turn // len(CORRUPTIONS) % RESUME_EVERY == turn % RESUME_EVERY:
                result = self._finish(run, self.short, *SHORT)
                aside = (newest.parent / "damaged-step-6").exists() or result != IDENTICAL or not run.exists()
                yield f"found and {result}" if aside else "WRONG: not put aside"
            else:
                yield "found"
            shutil.rmtree(run, ignore_errors=True)

    def _finish(self, run: Path, whole: Path, *overrides: str) -> str:
        """Resume to the end and compare; a run without faults is removed."""
        process = self._command.fork(run, *overrides)
        if (code := process.wait()) != 0:
            return f"WRONG: not resumed, exit code {code}: {process.stderr}"
        return self._compare(run, whole)

    def _compare(self, run: Path, whole: Path) -> str:
        from hybridkit.runs.run import Run

        ours, theirs = Run(run), Run(whole)
        found, expected = ours.newest(), theirs.newest()
        assert expected.manifest and not expected.skipped
        if found.manifest is None or found.skipped or found.manifest.step != expected.manifest.step:
            return "WRONG: no valid checkpoint at the end"
        if found.manifest.files != expected.manifest.files:
            return "WRONG: other weights, optimizer or state"
        if _without_times(ours) != _without_times(theirs):
            return "WRONG: other metrics"
        if list(ours.checkpoint_folder.glob(".*")):
            return "WRONG: leftovers"
        for path in (run, run.with_name(f"{run.name}.cache")):
            shutil.rmtree(path, ignore_errors=True)
        return IDENTICAL


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise_no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _reports_full_disk(said: str) -> bool:
    """Whether the message reports a full disk, without a traceback."""
    return os.strerror(errno.ENOSPC) in said and "Traceback" not in said


def _phase(run: Path) -> str:
    """What a killed run was doing."""
    checkpoints = run / "checkpoints"
    if not (run / "recipe.yaml").exists():
        return "before the run began"
    if list(checkpoints.glob(".*.part")):
        return "in a save"
    if list(checkpoints.glob(".*.old")):
        return "in a removal"
    return "between saves" if list(checkpoints.glob("step-*")) else "before the first save"


def _lock_time(run: Path) -> int:
    """When a process last locked the run, in nanoseconds; 0 for never."""
    lock = run / ".lock"
    return lock.stat().st_mtime_ns if lock.exists() else 0


def _newest(run: Path) -> int:
    """The step of the newest valid checkpoint, 0 without one."""
    from hybridkit.runs.run import Run

    found = Run(run).newest()
    return found.checkpoint.step if found.checkpoint else 0


def _inject(run: Path, note: Path, at: int, fault: Callable[[], None]) -> None:
    """Inject `fault` at file operation number `at` of this process; a write is done by half before.

    The step of the newest valid checkpoint at that moment is written to `note`.
    """
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


def _without_times(run: Any) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in TIMES} for line in run.metrics().lines]


if __name__ == "__main__":
    sys.exit(main())
