"""Random and mutated recipes, patterns, manifests and metrics files: each must be read, or refused with a message.

    python tools/stress/fuzz.py --cases 20000 --seed 0

Each of the four kinds has a quarter of the cases: half come from the tests' hypothesis strategies, half are shipped
files with changed bytes, words and lines, and with parts repeated beyond the limits of size. Tensor files and verbs
(`show`, `flops` and `train --dry-run` in this process) are tried as well, --cases / 20 times each.

A case fails if it raises anything but the project's own errors, if it takes more than a second of processor time, or if
the peak of resident memory rises by more than 200 MB (Linux: VmHWM, which is reset before each case). Verbs have no
limit of time and memory. Inputs that fail are written to --keep. Exit code 1 if any case failed.
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
TESTS = Path(__file__).resolve().parents[2] / "tests"
sys.path += [str(TESTS / folder) for folder in ("helpers", "language", "recipe", "runs")]

import torch  # noqa: E402
from fuzz_cases import Case, Kind, kinds  # noqa: E402  # it imports tests

from hybridkit.runs.manifest import Invalid  # noqa: E402
from hybridkit.system.errors import UserError, out_of_memory  # noqa: E402
from hybridkit.system.timing import Peak  # noqa: E402

SECONDS = 1.0  # of processor time
TIMEOUT = 60  # seconds of real time, after which a case that does not end fails
MEGABYTES = 200
ADDRESS_SPACE = 24 << 30  # bytes: huge sizes fail at once


def main() -> int:
    """Run all kinds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="folder for inputs that fail")
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, _too_long)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    print("| kind | cases | read | refused | failed | slowest, s | largest, MB |\n|---|---|---|---|---|---|---|")
    failed = 0
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        runner = CaseRunner(options.keep.absolute())
        for kind in kinds(options.cases, options.seed):
            failed += runner.row(kind)
    print(f"seed {options.seed}", flush=True)
    return 1 if failed else 0


class CaseRunner:
    """Runs cases, and writes those that fail to a folder."""

    def __init__(self, keep: Path) -> None:
        self._keep = keep

    def row(self, kind: Kind) -> int:
        """Run all cases of a kind, and print their row; how many failed."""
        outcomes: Counter[str] = Counter()
        slowest = largest = 0.0
        peak = Peak(torch.device("cpu"))

        def one(case: Case) -> None:
            nonlocal slowest, largest
            signal.alarm(TIMEOUT)
            with peak:
                pass
            began, before = time.process_time(), peak.bytes
            try:
                with peak:
                    outcome = _outcome(case, kind.bounded)
            except BaseException:
                outcome = f"failed: {traceback.format_exc()}"
            finally:
                signal.alarm(0)
            seconds = time.process_time() - began if kind.bounded else 0.0
            grown = (peak.bytes - before) / 2**20 if kind.bounded else 0.0
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
            return "refused" if str(error).strip() else "failed: no message"
        except (MemoryError, RuntimeError) as error:  # hybridkit.cli.main turns these into messages
            if bounded or not out_of_memory(error):
                raise
            return "refused"
    return "read"


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("the case does not end")


if __name__ == "__main__":
    sys.exit(main())
