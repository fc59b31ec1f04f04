"""Random and mutated recipes, patterns, manifests and metrics files: each is read, or refused in words.

Run: python tools/fuzz.py --cases 20000 --seed 0

A quarter of the cases is of each kind; half of them are the tests' own hypothesis strategies, half are the shipped
files with bytes, words and lines changed, and pieces of them repeated to beyond the limits of size. Tensor files and
verbs (`show`, `flops`, `train --dry-run` in this process) are tried besides, a twentieth as often.

A case fails where anything but the project's own errors is raised, where it takes more than a second of processor
time, or where resident memory at its peak is 200 MB above that before the case (Linux: VmHWM, which is reset). Verbs,
which import and compute, are under neither bound. The failing inputs are written to --keep. Exit code 1 if any failed.
"""

import argparse
import contextlib
import io
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from types import FrameType

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from fuzz_cases import Case, Kind, kinds  # noqa: E402  # it needs the tests on its path

from hybridkit.runs.manifest import Invalid  # noqa: E402
from hybridkit.system.errors import UserError, out_of_memory  # noqa: E402

SECONDS = 1.0  # of processor time
WATCHDOG = 60  # seconds of real time: a case that does not end at all
MEGABYTES = 200
ADDRESSES = 24 << 30  # bytes: absurd sizes fail here as on any machine, without burdening this one


def main() -> int:
    """Run all kinds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="where failing inputs are put")
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, _too_long)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    print("| kind | cases | read | refused | failed | slowest, s | largest, MB |\n|---|---|---|---|---|---|---|")
    failed = 0
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        judge = Judge(options.keep.absolute())
        for kind in kinds(options.cases, options.seed):
            failed += judge.row(kind)
    print(f"seed {options.seed}", flush=True)
    return 1 if failed else 0


class Judge:
    """Runs cases, and keeps those that fail."""

    def __init__(self, keep: Path) -> None:
        self._keep = keep

    def row(self, kind: Kind) -> int:
        """Run all cases of a kind, and print their row; how many failed."""
        outcomes: Counter[str] = Counter()
        slowest = largest = 0.0

        def one(case: Case) -> None:
            nonlocal slowest, largest
            signal.alarm(WATCHDOG)
            began, before = time.process_time(), _reset_peak()
            try:
                outcome = _outcome(case, kind.bounded)
            except BaseException:
                outcome = f"failed: {traceback.format_exc()}"
            finally:
                signal.alarm(0)
            seconds = time.process_time() - began if kind.bounded else 0.0
            grown = _memory("VmHWM") - before if kind.bounded else 0.0
            slowest, largest = max(slowest, seconds), max(largest, grown)
            if outcome in ("read", "refused") and seconds > SECONDS:
                outcome = f"failed: {seconds:.1f} seconds"
            if outcome in ("read", "refused") and grown > MEGABYTES:
                outcome = f"failed: {grown:.0f} MB"
            if outcome.startswith("failed"):
                self._put(kind.name, outcomes.total(), case, outcome)
            outcomes[outcome.partition(":")[0]] += 1

        for case in kind.warm:
            _outcome(case, False)
        kind.cases(one)
        said = " | ".join(str(outcomes[key]) for key in ("read", "refused", "failed"))
        print(f"| {kind.name} | {outcomes.total()} | {said} | {slowest:.2f} | {largest:.0f} |", flush=True)
        return outcomes["failed"]

    def _put(self, name: str, number: int, case: Case, outcome: str) -> None:
        self._keep.mkdir(exist_ok=True)
        (self._keep / f"{name}-{number}").write_bytes(case.content)
        (self._keep / f"{name}-{number}.txt").write_text(outcome, errors="backslashreplace", encoding="utf-8")
        print(f"{name} {number}: {outcome.strip().splitlines()[-1][:200]}", file=sys.stderr)


def _outcome(case: Case, bounded: bool) -> str:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            case.read(case.content)
        except (UserError, Invalid) as error:
            return "refused" if str(error).strip() else "failed: no words"
        except (MemoryError, RuntimeError) as error:  # which `main` puts into words
            if bounded or not out_of_memory(error):
                raise
            return "refused"
    return "read"


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("it does not end")


def _reset_peak() -> float:
    """Let the peak of resident memory begin again at what is resident now: megabytes."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return _memory("VmRSS")


def _memory(name: str) -> float:
    """Megabytes."""
    line = next(
        line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if line.startswith(name)
    )
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    sys.exit(main())
