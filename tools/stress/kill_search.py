"""Kill workers of a search while it runs, and check its trials.

    python tools/stress/kill_search.py SPACE [--workers 4] [--every 10]

Runs `hybridkit search SPACE` in a temporary folder and sends SIGKILL to one worker every few seconds. At the end each
trial must be finished and exist once, with each of its steps once and in order in metrics.jsonl. Linux only.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hybridkit.runs.run import Run


def workers(folder: Path) -> list[int]:
    """The living processes that hold the lock of a trial's run."""
    found = [
        int(text) for lock in folder.glob("trials/*/seed-*/.lock") if (text := lock.read_text(encoding="utf-8").strip())
    ]
    return [process for process in found if alive(process)]


def alive(process: int) -> bool:
    """Whether a process exists and has not ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def mistakes(folder: Path, found: dict[str, object]) -> list[str]:
    """What is wrong with a finished study; empty if nothing is."""
    trials = found["trials"]
    assert isinstance(trials, dict)
    wrong = [f"{count} trials are {state}" for state, count in trials.items() if state != "done" and count]
    if len(list(folder.glob("trials/*"))) != trials["done"]:
        wrong.append("the number of folders and of trials differs")
    for run in sorted(folder.glob("trials/*/seed-*")):
        steps = [line["step"] for line in Run(run).metrics().lines if "loss" in line]
        if steps != list(range(1, Run(run).recipe.recipe.train.steps + 1)):
            wrong.append(f"{run}: steps are missing or stand twice")
    return wrong


def main() -> None:
    """Run the search, kill workers, and report what is wrong with the trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("space")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--every", type=float, default=10, help="seconds between kills")
    given = parser.parse_args()
    draw, kills = random.Random(0), 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "study"
        command = [sys.executable, "-m", "hybridkit.cli", "search", given.space, "--study", str(folder), "--json"]
        search = subprocess.Popen([*command, "--workers", str(given.workers)], stdout=subprocess.PIPE, encoding="utf-8")
        while search.poll() is None:
            time.sleep(given.every)
            if victims := workers(folder):
                os.kill(draw.choice(victims), signal.SIGKILL)
                kills += 1
        assert search.stdout is not None
        wrong = mistakes(folder, json.loads(search.stdout.read())) if not search.returncode else ["the search failed"]
    print(f"{kills} workers killed; " + ("; ".join(wrong) or "no trial is lost, none stands twice"))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
