"""Sections of `gpu_sections.py` that run programs: the verbs, ZeRO, and a study's trials side by side."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from threading import Thread
from typing import IO, Any

from gpu_check import read_rows
from gpu_models import Bench

from hybridkit.runs.metrics import last_line, read_metrics

SECTIONS = Path(__file__).resolve().with_name("gpu_sections.py")
HYBRIDKIT = [sys.executable, "-m", "hybridkit.cli"]
Row = dict[str, Any]
Rows = Iterator[Row]
STUDY = [  # a trial of recipes/studies/short-window-gpu.yaml
    "pattern=[conv, swa:stoch(8,64,p=.75), mlstm]*2", "model.width=64", "model.heads=2", "model.ffn=null",
    "data.source=recall(pairs=6, noise=.5)", "data.sequence=128", "train.batch_tokens=2k", "train.compile=no",
    "train.precision=fp32",
]  # fmt: skip
STUDY_TOKENS = 80 * 2400 * 2048  # of the whole study


def skipped(why: str) -> dict[str, Any]:
    """A row that says why there is no figure."""
    return {"skipped": why}


def call(
    command: Sequence[str], where: str | None = None, limit: float | None = None, **environment: str
) -> tuple[int, str, float]:
    """Exit code, last line and seconds of a program, which is ended after `limit` seconds. Its lines are printed."""
    code, lines, seconds = call_for_lines(command, where, limit, **environment)
    return code, next((line[:200] for line in reversed(lines) if line.strip()), ""), seconds


def call_for_lines(
    command: Sequence[str], where: str | None = None, limit: float | None = None, **environment: str
) -> tuple[int, list[str], float]:
    """The same with all lines. Each is printed as it comes: whoever ends this process has those before."""
    began, lines = time.perf_counter(), list[str]()

    def copy(out: IO[str]) -> None:
        for line in out:
            print(line, end="", flush=True)
            lines.append(line.rstrip())

    pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    process = subprocess.Popen(command, cwd=where, env=os.environ | environment, **pipe)
    copying = Thread(target=copy, args=(process.stdout,), daemon=True)
    copying.start()
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        code = 124
    copying.join(timeout=5)  # what the program started may live on, and hold the pipe
    if code == 124:
        lines.append(f"ended after {limit:.0f} s")
    return code, [*lines], time.perf_counter() - began


def apart(bench: Bench, section: str, limit: float | None = None, **environment: str) -> tuple[list[Row], str, float]:
    """The rows of a section in a process of its own, which may crash; why there are none, and the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        command = [sys.executable, str(SECTIONS), section, str(rows), *bench.arguments]
        code, said, seconds = call(command, limit=limit, **environment)
        made = read_rows(rows)
    return made, f"exit code {code}: {said}" if code else "", seconds


def train(bench: Bench, run: str, *overrides: str) -> list[str]:
    """The command that trains the quickstart's recipe, changed, into a run folder."""
    return [*HYBRIDKIT, "train", "quickstart", *overrides, f"train.device={bench.device.type}", "--run", run]


def verbs(bench: Bench) -> Rows:
    """Train, kill, resume, generate, evaluate: the quickstart's recipe, shortened."""
    shorter = ["train.steps=24", "train.checkpoint_every=8", "train.validate_every=12", *bench.overrides]
    with tempfile.TemporaryDirectory() as folder:
        run = f"{folder}/run"
        training, began = train(bench, run, *shorter), time.perf_counter()
        with subprocess.Popen(training, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and not list(Path(run).glob("checkpoints/step-*/manifest.json")):
                time.sleep(0.05)
            process.kill()
        yield {"verb": "train, killed at its first checkpoint (code -9)", "code": process.returncode, "said": "",
               "seconds": time.perf_counter() - began}  # fmt: skip
        commands = {
            "train --resume": [*training, "--resume"],
            "generate": [*HYBRIDKIT, "generate", run, "def ", "--tokens", "20"],
            "eval": [*HYBRIDKIT, "eval", run, "--context", "256", "--device", bench.device.type],
        }
        for verb, command in commands.items():
            code, said, seconds = call(command)
            yield {"verb": verb, "code": code, "said": said, "seconds": seconds}


def zero(bench: Bench) -> Rows:
    """ZeRO 1 to 3 on one card, beside the local engine: last losses."""
    if find_spec("deepspeed") is None:
        yield skipped("deepspeed is not installed")
        return
    stages = (["train.engine=deepspeed", f"train.zero={stage}"] for stage in (1, 2, 3))
    for options in (["train.engine=local"], *stages):
        with tempfile.TemporaryDirectory() as folder:
            run = f"{folder}/run"
            code, said, seconds = call(train(bench, run, "train.steps=6", *bench.overrides, *options))
            last = last_line(Path(run, "metrics.jsonl"), "loss")
        yield {"engine": " ".join(options), "code": code, "loss": last and last["loss"], "seconds": seconds,
               "said": said if code else ""}  # fmt: skip


def studies(bench: Bench) -> Rows:
    """Trials of a study side by side on one card: how many pay, and what the whole study would take."""
    steps = 4 if bench.small else 120
    for runs in (1, 2) if bench.small else (1, 10, 20):
        with tempfile.TemporaryDirectory() as folder:
            overrides = [*STUDY, f"train.steps={steps}"]
            commands = [train(bench, f"{folder}/{n}", *overrides, f"train.seed={n}") for n in range(runs)]
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            began = time.perf_counter()
            codes = [process.wait() for process in [subprocess.Popen(command, **quiet) for command in commands]]
            seconds = time.perf_counter() - began
            rate = sum(rate_of(Path(folder, str(n), "metrics.jsonl")) for n in range(runs))
        hours = STUDY_TOKENS / rate / 3600 if rate else None
        yield {
            "runs": runs, "failed": sum(map(bool, codes)), "seconds": seconds, "tokens_per_second": rate,
            "hours_of_the_study": hours,
        }  # fmt: skip


def rate_of(metrics: Path) -> float:
    """Tokens a second of a run, the median over its steps; 0 where it has none."""
    rates = [line["tokens_per_second"] for line in read_metrics(metrics).lines if "tokens_per_second" in line]
    return median(rates) if rates else 0.0
