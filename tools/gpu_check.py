"""Everything that a GPU is needed to know, in one command: sections with time limits, results after each of them.

    python tools/gpu_check.py [--only NAME...] [--out gpu-check] [--device cuda] [--small] [--slower X] [--list]

On a card, run it without arguments; where time is short, first `--only tests first_step training inference`, which
take eight minutes at most. It needs an installed hybridkit and no internet. Sections run in order of worth, each in a
process of its own, which is ended at its limit; what it measured until then is kept. OUT holds results.json,
results.md, which begins with the targets of speed beside what was measured, a log of each section, and what was
compiled: `first_step` empties that, and the sections after it find what it has left. What is not
installed, or is not for this device, is skipped, and the results say so. `--device cpu --small` tries every section at
sizes that a CPU runs in about a minute each; its figures only show that the sections run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from gpu_targets import cell, table

from hybridkit.report.markup import markdown_table
from hybridkit.system.files import write_whole
from hybridkit.system.strict_json import format_json

LIMITS = {  # seconds; up to `inference` 8 minutes
    "tests": 105,
    "doctor": 20,
    "first_step": 140,
    "training": 125,
    "inference": 90,
    "gate": 40,
    "verbs": 100,
    "zero": 120,
    "peers": 220,
    "profile": 80,
    "studies": 90,
}
VERSIONS = ("hybridkit", "torch", "triton", "mlstm_kernels", "flash_attn", "transformers", "deepspeed",
            "flash-linear-attention")  # fmt: skip
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME")  # the variables that say where they are
Row = dict[str, Any]
CARD = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]


def versions() -> Row:
    """Of what is installed here."""
    found: Row = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> str:
    """The cards with memory and driver, as nvidia-smi says them, and the processor."""
    try:
        said = subprocess.run(CARD, capture_output=True, encoding="utf-8", timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    cards = "; ".join(said.strip().splitlines())
    about = Path("/proc/cpuinfo")
    lines = about.read_text(encoding="utf-8").splitlines() if about.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{cards or 'no card that nvidia-smi knows'}; {os.cpu_count()} x {names[0] if names else platform.machine()}"


def run_section(name: str, given: argparse.Namespace) -> Row:
    """A section in its own process, with all that it started: its rows, and how it ended."""
    rows, log = given.out / f"{name}.jsonl", given.out / f"{name}.log"
    rows.unlink(missing_ok=True)
    if name == "first_step":
        shutil.rmtree(given.out / "caches", ignore_errors=True)
    command = [sys.executable, str(Path(__file__).resolve().with_name("gpu_sections.py")), name, str(rows)]
    command += ["--device", given.device, *(["--small"] if given.small else [])]
    limit, began = LIMITS[name] * given.slower, time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        own = {"GPU_CHECK_SLOWER": str(given.slower)} | {name: str(given.out / "caches" / name) for name in CACHES}
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True, env=os.environ | own)
        try:
            code = process.wait(limit)
            ended = "done" if code == 0 else f"failed with exit code {code}: {last_line(log)}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            ended = f"stopped at its limit of {limit:.0f} s; what it had measured is kept"
    return {"section": name, "ended": ended, "seconds": time.perf_counter() - began, "rows": read_rows(rows)}


def read_rows(file: Path) -> list[Row]:
    """Whole lines only: a section that was ended may have left half of one."""
    lines = file.read_text(encoding="utf-8").split("\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


def last_line(log: Path) -> str:
    """The last line of a log, which names the error."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it printed nothing"


def write(out: Path, report: Row) -> None:
    """results.json and results.md, whole at any time."""
    write_whole(out / "results.json", format_json(report, indent=1).encode())
    write_whole(out / "results.md", markdown(report).encode())


def markdown(report: Row) -> str:
    """The targets beside what was measured; then each section, with a table for rows of the same columns."""
    about = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    parts = [f"# hybridkit on {report['device']}", f"{report['date']}. {report['machine']}. {about}."]
    if report["small"]:
        parts.append("Small models: the figures say only that every section runs.")
    parts.append(table(report))
    for section in report["sections"]:
        parts.append(f"## {section['section']}\n{section['ended']}, {section['seconds']:.0f} s")
        tables: dict[tuple[str, ...], list[Row]] = {}
        for row in section["rows"]:
            tables.setdefault(tuple(row), []).append(row)
        for columns, rows in tables.items():
            parts.append(markdown_table(columns, [[cell(value) for value in row.values()] for row in rows]))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Run the sections, and write after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=LIMITS, default=list(LIMITS), metavar="NAME", help=", ".join(LIMITS)
    )
    parser.add_argument("--out", type=Path, default=Path("gpu-check"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="small models and few steps")
    parser.add_argument("--slower", type=float, default=1.0, metavar="X", help="every limit times X")
    parser.add_argument("--list", action="store_true", help="print the sections and their limits")
    given = parser.parse_args()
    if given.list:
        print("\n".join(f"{name:12} {limit} s" for name, limit in LIMITS.items()))
        return
    given.out = given.out.resolve()
    given.out.mkdir(parents=True, exist_ok=True)
    report: Row = {
        "date": time.strftime("%Y-%m-%d"),
        "device": given.device,
        "small": given.small,
        "machine": machine(),
        "versions": versions(),
        "sections": [],
    }
    for name in (name for name in LIMITS if name in given.only):
        print(f"{name} (at most {LIMITS[name] * given.slower:.0f} s) ...", flush=True)
        report["sections"].append(run_section(name, given))
        write(given.out, report)
        print(f"  {report['sections'][-1]['ended']}", flush=True)
    print(f"{given.out / 'results.md'}")


if __name__ == "__main__":
    main()
