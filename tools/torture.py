"""Kills, fills disks and damages checkpoints, and checks that training goes on as if nothing had happened.

Run: OMP_NUM_THREADS=1 python tools/torture.py --kills 200 --damages 500 --folder /tmp/torture

Kinds: SIGKILL of a real process at random moments; the process ending itself with SIGKILL at every single write, fsync,
rename and removal; ENOSPC at each of them; bytes flipped and files cut at random places of the newest checkpoint.
After each the run is resumed, and its weights and metrics (but for figures of time) are held against an uninterrupted
run's. Exit code 1 if anything differs.
"""

import argparse
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

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


def main() -> int:
    """Run all kinds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--damages", type=int, default=50)
    parser.add_argument("--folder", type=Path, required=True, help="a new folder; removed at the end if all went well")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    os.environ["HYBRIDKIT_CACHE"] = str(options.folder / "cache")
    draw, bench = random.Random(options.seed), Bench(options.folder)
    rows = {
        "SIGKILL at a random moment": bench.kills(options.kills, draw),
        "SIGKILL at each file operation": bench.faults(_die),
        "ENOSPC at each file operation": bench.faults(_full),
        "a flipped bit or a cut in the newest checkpoint": bench.damages(options.damages, draw),
    }
    print("\n| what | times | outcomes |\n|---|---|---|")
    for name, outcomes in rows.items():
        said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        print(f"| {name} | {outcomes.total()} | {said} |")
    wrong = sum(count for outcomes in rows.values() for outcome, count in outcomes.items() if "WRONG" in outcome)
    if not wrong:
        shutil.rmtree(options.folder)
    return 1 if wrong else 0


class Bench:
    """A recipe, its uninterrupted runs, and ways to spoil others."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._recipe = folder, folder / "tiny.yaml"
        (folder / "text").mkdir()
        words = random.Random(0)
        for number in range(6):
            said = (words.choice(["window", "state", "short", "long"]) for _ in range(60))
            (folder / "text" / f"{number}.txt").write_text(" ".join(said))
        self._recipe.write_text(RECIPE.format(text=folder / "text"))
        self.train(folder / "whole")
        self.train(folder / "short", *SHORT)

    def train(self, run: Path, *overrides: str) -> None:
        """Train or resume in this process."""
        from hybridkit.recipe import load
        from hybridkit.train.reporter import Silent
        from hybridkit.train.trainer import train

        train(load(self._recipe, overrides), run, resume=True, reporter=Silent())

    def kills(self, times: int, draw: random.Random) -> Counter[str]:
        """Start a process, kill it some time after it began to train, again and again until the run is done."""
        outcomes: Counter[str] = Counter()
        round_ = 0
        while outcomes.total() < times:
            run, round_ = self._folder / f"kill-{round_}", round_ + 1
            killed = 0
            while self._killed_once(run, draw) and killed + outcomes.total() < times:
                killed += 1
            self.train(run)
            outcomes[self._judge(run, self._folder / "whole")] += max(1, killed)
            print(f"{outcomes.total()} kills", flush=True)
        return outcomes

    def _killed_once(self, run: Path, draw: random.Random) -> bool:
        """Whether the process was killed before it was done."""
        command = [sys.executable, "-m", "hybridkit.cli", "train", str(self._recipe), "--run", str(run), "--resume"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            before = _size(run / "metrics.jsonl")
            while process.poll() is None and _size(run / "metrics.jsonl") <= before:
                before = min(before, _size(run / "metrics.jsonl"))
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.4))
            process.kill()
        assert process.returncode in (0, -signal.SIGKILL), "the run failed by itself"
        return process.returncode != 0

    def faults(self, fault: Callable[[], None]) -> Counter[str]:
        """Let `fault` happen at the first operation, at the second, ... until a run makes no more."""
        outcomes: Counter[str] = Counter()
        for at in range(1, 10**6):
            run = self._folder / f"fault-{fault.__name__}-{at}"
            if not self._faulty(run, at, fault):
                shutil.rmtree(run)
                return outcomes
            self.train(run, *SHORT)
            outcomes[self._judge(run, self._folder / "short")] += 1
        raise AssertionError("a run of endless operations")

    def _faulty(self, run: Path, at: int, fault: Callable[[], None]) -> bool:
        """Whether the run, in a process of its own, got as far as operation number `at`."""
        child = os.fork()
        if child == 0:
            try:
                _intrude(at, fault)
                self.train(run, *SHORT)
                os._exit(0)
            except BaseException:
                os._exit(1)
        return os.waitpid(child, 0)[1] != 0

    def damages(self, times: int, draw: random.Random) -> Counter[str]:
        """Spoil one file of the newest checkpoint, and resume."""
        outcomes: Counter[str] = Counter()
        for turn in range(times):
            run = self._folder / f"damage-{turn}"
            shutil.copytree(self._folder / "short", run)
            newest = run / "checkpoints" / "step-6"
            path = draw.choice(sorted(newest.iterdir()))
            content = bytearray(path.read_bytes())
            place = draw.randrange(len(content))
            if draw.random() < 0.5:
                content[place] ^= 1 << draw.randrange(8)
            else:
                del content[place:]
            unchanged = path.name == "manifest.json" and _same_json(bytes(content), path.read_bytes())
            path.write_bytes(content)
            self.train(run, *SHORT)
            passed_over = (newest.parent / "damaged-step-6").exists()
            found = "in white space, harmless" if unchanged else "found" if passed_over else "WRONG: taken"
            outcomes[f"{found}, {self._judge(run, self._folder / 'short')}"] += 1
        return outcomes

    def _judge(self, run: Path, whole: Path) -> str:
        """Compare, and remove the run where it is as it should be."""
        import torch

        from hybridkit.run import Run

        ours, theirs = Run(run), Run(whole)
        weights, expected = ours.weights(), theirs.weights()
        if weights.keys() != expected.keys() or any(not torch.equal(weights[n], expected[n]) for n in expected):
            return "WRONG: other weights"
        if _untimed(ours.metrics().lines) != _untimed(theirs.metrics().lines):
            return "WRONG: other metrics"
        shutil.rmtree(run)
        return "resumed bit for bit"


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _intrude(at: int, fault: Callable[[], None]) -> None:
    """Make operation number `at` of this process end in `fault`, half done where it can be."""
    from hybridkit.train.files import Files

    count = 0

    def wrapped(whole: Callable[..., None], name: str) -> Callable[..., None]:
        def operation(self: Files, *args: Any) -> None:
            nonlocal count
            count += 1
            if count == at:
                if name == "write":
                    whole(self, args[0], args[1][: len(args[1]) // 2])
                fault()
            whole(self, *args)

        return operation

    for name in OPERATIONS:
        setattr(Files, name, wrapped(getattr(Files, name), name))


def _untimed(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in TIMED} for line in lines]


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


if __name__ == "__main__":
    sys.exit(main())
