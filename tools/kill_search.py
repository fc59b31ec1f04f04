"""Kill a search's workers while it runs: `python tools/kill_search.py SPACE [--workers 4] [--every 10]`.

Runs `hybridkit search SPACE` in a folder of its own and sends SIGKILL to one worker every few seconds. At the end every
trial must be there once, finished, with all its steps in metrics.jsonl once and in order. Linux.
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
    """The processes that hold the lock of a trial's run, and are alive."""
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
    """What is wrong with a finished study; nothing, if all is well."""
    trials = found["trials"]
    assert isinstance(trials, dict)
    wrong = [f"{count} trials are {state}" for state, count in trials.items() if state != "done" and count]
    if len(list(folder.glob("trials/*"))) != trials["done"]:
        wrong.append("folders and trials differ in number")
    for run in sorted(folder.glob("trials/*/seed-*")):
        steps = [line["step"] for line in Run(run).metrics().lines if "loss" in line]
        if steps != list(range(1, Run(run).recipe.recipe.train.steps + 1)):
            wrong.append(f"{run}: steps are missing or doubled")
    return wrong


def main() -> None:
    """Search while workers are killed; say what became of every trial."""
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
    print(f"{kills} workers killed; " + ("; ".join(wrong) or "no trial lost, none doubled"))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
