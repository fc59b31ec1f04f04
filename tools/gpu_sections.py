"""The sections of `gpu_check.py`, which runs each in a process of its own:

    python tools/gpu_sections.py SECTION ROWS.jsonl [--device cuda] [--small]

A section appends its rows to a file as it measures, one JSON object a line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from gpu_models import Bench, free, row_of
from torch.profiler import ProfilerActivity, profile

from hybridkit.inference.decode import prefill
from hybridkit.inference.language_model import LanguageModel
from hybridkit.model.plan import Plan
from hybridkit.system.notices import listening
from hybridkit.training.ceiling import copy_ceiling
from hybridkit_blocks.ops.mlstm_kernels import agrees, choose_kernel

HERE = Path(__file__).resolve().parent
HYBRIDKIT = [sys.executable, "-m", "hybridkit.cli"]
SWAX, XLSTM, TRANSFORMER = "paper/swax-stochastic-1.4b", "paper/xlstm-1.4b", "paper/transformer-1.4b"
Rows = Iterator[dict[str, Any]]
Section = Callable[[Bench], Rows]


def skipped(why: str) -> dict[str, Any]:
    """A row that says why there is no figure."""
    return {"skipped": why}


def call(command: Sequence[str], where: str | None = None, **environment: str) -> tuple[int, str, float]:
    """Exit code, last lines and seconds of a program."""
    began = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", cwd=where, env=os.environ | environment
    )
    print(done.stdout, done.stderr, flush=True)
    said = (done.stdout + done.stderr).strip().splitlines()
    return done.returncode, said[-1][:200] if said else "", time.perf_counter() - began


def tests(bench: Bench) -> Rows:
    """tests/gpu of the checkout."""
    folder = HERE.parent / "tests" / "gpu"
    if bench.device.type != "cuda" or not folder.exists() or find_spec("pytest") is None:
        yield skipped("it needs a GPU, pytest, and the tests of a checkout beside this file")
        return
    code, said, seconds = call([sys.executable, "-m", "pytest", "-q", "-n0", "-rf", str(folder)], str(HERE.parent))
    yield {"tests": "tests/gpu", "code": code, "said": said, "seconds": seconds}


def doctor(bench: Bench) -> Rows:
    """`hybridkit doctor`; its answer is in the log."""
    code, said, seconds = call([*HYBRIDKIT, "doctor"])
    yield {"doctor": said, "code": code, "seconds": seconds}


def first_step(bench: Bench) -> Rows:
    """Until the first step of the shipped SWAX 1.4B is done: with empty caches, and with those that it left."""
    with tempfile.TemporaryDirectory() as folder:
        caches = {
            name: f"{folder}/{name}" for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME")
        }
        for state in ("cold", "warm"):
            rows = Path(folder) / f"{state}.jsonl"
            command = [sys.executable, __file__, "one_step", str(rows), *bench.arguments]
            code, said, seconds = call(command, **caches)
            made = json.loads(rows.read_text(encoding="utf-8")) if code == 0 else {"failed": said}
            yield {"caches": state, **made, "process_seconds": seconds}


def one_step(bench: Bench) -> Rows:
    """The first step, in this process, and what was said to be built."""
    said: list[str] = []
    began = time.perf_counter()
    with listening(lambda text: (said.append(text), print(text, flush=True))):
        trainer = bench.trainer(SWAX)
        ready = time.perf_counter()
        trainer.step(trainer.windows(128))
        yield {"engine_seconds": ready - began, "step_seconds": time.perf_counter() - ready, "built": len(said)}


def training(bench: Bench) -> Rows:
    """The shipped 1.4B recipes, one micro-batch a step."""
    yield from bench.ceilings()
    cases: list[tuple[str, int | tuple[int, int] | None, dict[str, Any]]] = [
        (SWAX, 128, {}),
        (SWAX, 2048, {}),
        (SWAX, (128, 2048), {}),
        (XLSTM, None, {}),
        (TRANSFORMER, None, {}),
        (SWAX, 128, {"documents": True}),
        (SWAX, 128, {"recompute": True, "rows": 2}),
        (SWAX, 128, {"compile": False}),
        (SWAX, 128, {"ffn": 5632}),
    ]
    for name, window, options in cases:
        run = partial(bench.train, name, window, **options)
        yield row_of(run, recipe=name, window=str(window), options=str(options))


def inference(bench: Bench) -> Rows:
    """Prefill, then decoding for 1, 8 and 64 rows, weights in bf16."""
    for name in (SWAX, XLSTM):
        plan: Plan = bench.plan(name)
        model = bench.language_model(plan)
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        copied = copy_ceiling(bench.device)
        copied.measure()
        context = None
        for rows in bench.batches:
            tokens = bench.tokens(rows, bench.prompt if rows == 1 else 128)
            for _ in range(2):
                taken = bench.seconds(partial(prefill, model, tokens))
            context = prefill(model, tokens)
            made = {"recipe": name, "rows": rows, "prompt": tokens.shape[1], "prefill": tokens.numel() / taken}
            steps = LanguageModel.generate(model, context, max_tokens=bench.replies, temperature=0)
            next(steps), next(steps)
            taken = bench.seconds(partial(list, steps))
            made["decode"] = rows * (bench.replies - 2) / taken
            yield made | {"share_of_copying": weights * made["decode"] / rows / copied.best}
        model = context = None
        free()


def gate(bench: Bench) -> Rows:
    """The check of the mLSTM's compiled kernel for the heads of the recipes, from nothing."""
    name, why = choose_kernel(bench.device.type)
    if name != "triton":
        yield skipped(f"{name} runs here: {why}")
        return
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
    for dtype, key, value in ((torch.bfloat16, 128, 256), (torch.bfloat16, 64, 128), (torch.float32, 64, 128)):
        began = time.perf_counter()
        passed = agrees(name, bench.device, dtype, key, value)
        yield {
            "heads": f"{key} x {value}",
            "type": str(dtype),
            "agrees": passed,
            "seconds": time.perf_counter() - began,
        }


def verbs(bench: Bench) -> Rows:
    """Train, kill, resume, generate, evaluate: the quickstart's recipe, shortened."""
    folder = tempfile.mkdtemp()
    run, sizes = (
        f"{folder}/run",
        ["train.steps=24", "train.checkpoint_every=8", "train.validate_every=12", *bench.overrides],
    )
    train = [*HYBRIDKIT, "train", "quickstart", *sizes, f"train.device={bench.device.type}", "--run", run]
    began = time.perf_counter()
    with subprocess.Popen(train, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(Path(run).glob("checkpoints/step-*/manifest.json")):
            time.sleep(0.05)
        process.kill()
    yield {
        "verb": "train, killed at the first checkpoint",
        "code": 0,
        "said": "",
        "seconds": time.perf_counter() - began,
    }
    commands = {
        "train --resume": [*train, "--resume"],
        "generate": [*HYBRIDKIT, "generate", run, "def ", "--tokens", "20"],
        "eval": [*HYBRIDKIT, "eval", run, "--context", "256", "--device", bench.device.type],
    }
    for verb, command in commands.items():
        code, said, seconds = call(command)
        yield {"verb": verb, "code": code, "said": said, "seconds": seconds}
    shutil.rmtree(folder)


def zero(bench: Bench) -> Rows:
    """ZeRO 1 to 3 on one card, beside the local engine: last losses."""
    if find_spec("deepspeed") is None:
        yield skipped("deepspeed is not installed")
        return
    for options in (
        ["train.engine=local"],
        *(["train.engine=deepspeed", f"train.zero={stage}"] for stage in (1, 2, 3)),
    ):
        folder = tempfile.mkdtemp()
        command = [
            *HYBRIDKIT,
            "train",
            "quickstart",
            "train.steps=6",
            *bench.overrides,
            *options,
            "--run",
            f"{folder}/run",
        ]
        code, said, seconds = call([*command, f"train.device={bench.device.type}"])
        lines = Path(folder, "run", "metrics.jsonl")
        losses = (
            [json.loads(line).get("loss") for line in lines.read_text(encoding="utf-8").splitlines()]
            if lines.exists()
            else []
        )
        last = next((loss for loss in reversed(losses) if loss is not None), None)
        yield {
            "engine": " ".join(options),
            "code": code,
            "loss": last,
            "seconds": seconds,
            "said": said if code else "",
        }
        shutil.rmtree(folder)


def peers(bench: Bench) -> Rows:
    """Other libraries' models of the same size, a training step each; ours beside them, measured now."""
    if find_spec("transformers") is None:
        yield skipped("transformers is not installed")
        return
    from gpu_models import PEERS

    yield row_of(partial(bench.train, TRANSFORMER, None), model="ours: transformer-1.4b")
    yield row_of(partial(bench.train, XLSTM, None), model="ours: xlstm-1.4b")
    for name, (package, build) in PEERS.items():
        if find_spec(package) is None:
            yield {"model": name, **skipped(f"{package} is not installed")}
            continue
        for compiled in (False, True):
            if not (compiled and bench.device.type == "cpu"):
                label = f"{name}{', compiled' if compiled else ''}"
                yield row_of(partial(bench.train_other, build, compiled), model=label)


def dearest(bench: Bench) -> Rows:
    """The ten dearest kernels of a training step of SWAX at window 128."""
    trainer = bench.trainer(SWAX)
    windows = trainer.windows(128)
    for _ in range(2):
        trainer.step(windows)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.device.type == "cuda" else [])]
    with profile(activities=kinds) as found:
        trainer.step(windows)
    spent = "self_device_time_total" if bench.device.type == "cuda" else "self_cpu_time_total"
    events = sorted(found.key_averages(), key=lambda event: getattr(event, spent), reverse=True)
    total = sum(getattr(event, spent) for event in events)
    for event in events[:10]:
        taken = getattr(event, spent)
        yield {"kernel": event.key[:90], "ms": taken / 1e3, "share": taken / total, "calls": event.count}


SECTIONS: dict[str, Section] = {
    "tests": tests,
    "doctor": doctor,
    "first_step": first_step,
    "one_step": one_step,
    "training": training,
    "inference": inference,
    "gate": gate,
    "verbs": verbs,
    "zero": zero,
    "peers": peers,
    "profile": dearest,
}


def main() -> None:
    """Run one section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=SECTIONS)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no GPU here; try --device cpu --small")
    with given.rows.open("a", encoding="utf-8") as file:
        for row in SECTIONS[given.section](Bench(torch.device(given.device), given.small)):
            print(row, flush=True)
            file.write(json.dumps(row) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
