"""What the machine is said to be."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hybridkit.system.errors import UserError
from hybridkit.system.machine import CPUINFO, choose_device, choose_precision, spare_memory
from hybridkit.training.ceiling import peak_flops


def test_what_is_asked_for_is_taken() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_precision("fp64", "cpu") == "fp64"


FLAGS = {"fpu sse2 avx2 avx512f": "fp32", "fpu avx2 avx512f avx512_bf16": "bf16", "fp asimd bf16": "bf16", "": "fp32"}


@pytest.mark.parametrize("flags", FLAGS)
def test_auto_is_bf16_where_the_processor_says_so(flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor\t: 0\nflags\t\t: {flags}\n\n")
    monkeypatch.setenv(CPUINFO, str(info))
    assert choose_precision("auto", "cpu") == FLAGS[flags]
    assert [choose_precision(name, "cpu") for name in ("fp32", "bf16", "fp64")] == ["fp32", "bf16", "fp64"]
    monkeypatch.setenv(CPUINFO, str(tmp_path / "none"))
    assert choose_precision("auto", "cpu") == "fp32"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the precision of auto is the GPU's here")
def test_a_whole_process_sees_the_same_processor(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags: {next(flags for flags in FLAGS if FLAGS[flags] == 'bf16')}\n")
    words = [sys.executable, "-m", "hybridkit.cli", "doctor", "--json"]
    env = os.environ | {CPUINFO: str(tmp_path / "cpuinfo")}
    done = subprocess.run(words, capture_output=True, env=env, check=True)
    assert json.loads(done.stdout)["precision"] == "bf16"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what the test needs to be missing")
def test_a_missing_gpu_is_named() -> None:
    assert choose_device("auto").type == "cpu"
    with pytest.raises(UserError, match=r"train\.device"):
        choose_device("cuda")


def test_figures_are_of_a_sane_size() -> None:
    assert 1e8 < peak_flops(torch.device("cpu"), "fp32") < 1e15
    assert peak_flops(torch.device("cpu"), "fp32") == peak_flops(torch.device("cpu"), "fp32"), "measured once"
    assert spare_memory() > 2**20


TAKE_AND_FREE = """
import resource, torch
from hybridkit.system.machine import keep_freed_memory
keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(32): torch.ones(2**24)
before = faults()
for _ in range(8): torch.ones(2**24)
print(faults() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_freed_memory_is_kept() -> None:
    """Of the 8 times 16,384 pages of 4 KiB that are else mapped anew."""
    run = subprocess.run([sys.executable, "-c", TAKE_AND_FREE], capture_output=True, check=True)
    assert int(run.stdout) < 1000
