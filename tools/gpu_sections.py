"""The sections of `gpu_check.py`, which runs each in a process of its own:

    python tools/gpu_sections.py SECTION ROWS.jsonl [--device cuda] [--small]

A section appends its rows to a file as it measures, one JSON object a line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from gpu_check import LIMITS
from gpu_models import Bench, free, row_of
from gpu_peers import PEERS
from gpu_targets import SWAX, TRANSFORMER, XLSTM
from gpu_verbs import HYBRIDKIT, Rows, apart, call, call_for_lines, skipped, studies, verbs, zero
from torch.profiler import ProfilerActivity, profile

from hybridkit.system.notices import listening
from hybridkit_blocks.ops import (
    attention_step,
    convolution_step,
    delta_kernels,
    delta_step,
    mlstm_kernels,
    mlstm_step,
    ssd_kernels,
    ssd_step,
)

HERE = Path(__file__).resolve().parent
SLOWER = float(os.environ.get("GPU_CHECK_SLOWER", "1"))
PEER_LIMIT = 75.0 * SLOWER  # seconds
TESTS_LIMIT = (LIMITS["tests"] - 10) * SLOWER  # of the tests themselves: so that their names and results are kept
OURS = {"ours: transformer": TRANSFORMER, "ours: xlstm": XLSTM}
PEER_PACKAGES = {  # in order of worth
    "ours: transformer": "hybridkit",
    "llama": "transformers",
    "llama, compiled": "transformers",
    "ours: xlstm": "hybridkit",
    "xlstm": "transformers",
    "gated_delta_net": "fla",
    "mamba2": "fla",
}
TRAINED: list[tuple[str, dict[str, Any], list[tuple[int | None, ...]]]] = [
    (SWAX, {}, [(128,), (2048,), (128, 2048)]),
    (XLSTM, {}, [(None,)]),
    (TRANSFORMER, {}, [(None,)]),
    (SWAX, {"ffn": 5632}, [(128,)]),
    (SWAX, {"documents": True}, [(128,)]),
    (SWAX, {"recompute": True, "rows": 2}, [(128,)]),
    (SWAX, {"compile": False}, [(128,)]),
]
Section = Callable[[Bench], Rows]


def tests(bench: Bench) -> Rows:
    """tests/gpu of the checkout."""
    folder = HERE.parent / "tests" / "gpu"
    if bench.device.type != "cuda" or not folder.exists() or find_spec("pytest") is None:
        yield skipped("it needs a GPU, pytest, and the tests of a checkout beside this file")
        return
    # Without the options of pyproject.toml, which ask for packages that a card's machine need not have.
    command = [sys.executable, "-m", "pytest", "-v", "-rf", "-o", "addopts=--import-mode=importlib", str(folder)]
    code, lines, seconds = call_for_lines(command, str(HERE.parent), TESTS_LIMIT)
    ended = {result: [line for line in lines if f" {result} " in f"{line} " and "::" in line.split()[0]]
             for result in ("PASSED", "FAILED", "ERROR")}  # fmt: skip
    yield {"tests": "tests/gpu", "code": code, "passed": len(ended["PASSED"]), "seconds": seconds,
           "failed": "; ".join(line.split()[0].rpartition("/")[2] for line in ended["FAILED"] + ended["ERROR"]),
           "said": lines[-1][:200] if lines else ""}  # fmt: skip


def doctor(bench: Bench) -> Rows:
    """`hybridkit doctor`; its answer is in the log."""
    code, said, seconds = call([*HYBRIDKIT, "doctor"])
    yield {"doctor": said, "code": code, "seconds": seconds}


def first_step(bench: Bench) -> Rows:
    """Until the first step of the shipped SWAX 1.4B is done: with caches that gpu_check.py has emptied, and again."""
    for state in ("cold", "warm"):
        rows, failed, seconds = apart(bench, "one_step")
        yield {"caches": state, **(rows[0] | {"process_seconds": seconds} if rows else {"failed": failed})}


def one_step(bench: Bench) -> Rows:
    """The first step, in this process, and what was said to be built."""
    said: list[str] = []

    def hear(text: str) -> None:
        said.append(text)
        print(text, flush=True)

    began = time.perf_counter()
    with listening(hear):
        trainer = bench.trainer(SWAX, as_users=True)
        ready = time.perf_counter()
        trainer.step(trainer.windows(128))
        yield {"engine_seconds": ready - began, "step_seconds": time.perf_counter() - ready, "built": len(said)}


def training(bench: Bench) -> Rows:
    """The shipped 1.4B recipes, one micro-batch a step."""
    yield from bench.ceilings()
    for name, options, windows in TRAINED:
        yield from bench.trained(name, options, windows)


def inference(bench: Bench) -> Rows:
    """Prefill, then decoding for 1, 8 and 64 rows, weights in bf16."""
    copied = bench.copy_rate()
    for name in (SWAX, XLSTM):
        model = bench.language_model(bench.plan(name))
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        for rows in bench.batches:
            row = row_of(partial(bench.read_and_write, model, rows), recipe=name, rows=rows)
            if "decode" in row:
                row["share_of_copying"] = weights * row["decode"] / rows / copied
            yield row
        del model
        free()


def gate(bench: Bench) -> Rows:
    """The checks of the compiled kernels for the heads of the recipes, from nothing."""
    if bench.device.type != "cuda":
        yield skipped("compiled kernels need a GPU; tools/stress/interpreted_kernels.py tries them without")
        return
    device, half, whole = bench.device, torch.bfloat16, torch.float32
    checks: dict[str, tuple[str, Callable[[], bool]]] = {
        "mlstm, 128 x 256, bf16": ("triton", partial(mlstm_kernels.agrees, "triton", device, half, 128, 256)),
        "mlstm's step, 128 x 256, bf16": ("triton", partial(mlstm_step.agrees, device, half, 128, 256)),
        "attention's step, 128, bf16": ("triton", partial(attention_step.agrees, device, half, 128, 128)),
        "a step of gdn, 128 x 256, bf16": ("triton", partial(delta_step.agrees, device, half, 128, 256, 1)),
        "a step of kda, 128 x 128, bf16": ("triton", partial(delta_step.agrees, device, half, 128, 128, 128)),
        "mamba2's step, 64 x 128, bf16": ("triton", partial(ssd_step.agrees, device, half, 64, 128)),
        "a convolution's step, bf16": ("triton", partial(convolution_step.agrees, device, half)),
        "mlstm, 64 x 128, fp32": ("triton", partial(mlstm_kernels.agrees, "triton", device, whole, 64, 128)),
        "gdn, 128 x 256, bf16": ("fla", partial(delta_kernels.agrees, "fla", device, half, 1, 128, 256)),
        "mamba2, 64 x 128, bf16": ("fla", partial(ssd_kernels.agrees, "fla", device, half, 1, 64, 128)),
    }
    with tempfile.TemporaryDirectory() as empty:
        os.environ["XDG_CACHE_HOME"] = empty
        for what, (package, check) in checks.items():
            if find_spec(package) is None:
                yield {"kernel": what, **skipped(f"{package} is not installed")}
                continue
            began = time.perf_counter()
            yield {"kernel": what, "agrees": check(), "seconds": time.perf_counter() - began}


def peers(bench: Bench) -> Rows:
    """Other libraries' models of the same size, a training step each, and ours; each in a process that may crash."""
    for label, package in PEER_PACKAGES.items():
        if find_spec(package) is None:
            yield {"model": label, **skipped(f"{package} is not installed")}
        elif "compiled" in label and bench.device.type == "cpu":
            yield {"model": label, **skipped("it is compiled on a GPU alone")}
        else:
            rows, failed, _ = apart(bench, f"peer {label}", PEER_LIMIT)
            yield rows[0] if rows else {"model": label, "failed": failed}


def one_peer(label: str, bench: Bench) -> Rows:
    """One of them."""
    name, _, compiled = label.partition(", ")

    def measure() -> dict[str, Any]:
        if name in OURS:
            return bench.train(partial(bench.trainer, OURS[name]), (None,))
        return bench.train_other(PEERS[name], bool(compiled))

    yield row_of(measure, model=label)


def dearest(bench: Bench) -> Rows:
    """The ten kernels that take most time in a training step of SWAX at window 128."""
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
    if not total:  # where a container may not read the card's counters
        yield skipped("the profiler saw no kernel")
        return
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
    "studies": studies,
    **{f"peer {label}": partial(one_peer, label) for label in PEER_PACKAGES},
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
