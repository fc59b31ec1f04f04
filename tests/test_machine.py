"""What the machine is said to be."""

import platform
import subprocess
import sys

import pytest
import torch

from hybridkit.errors import UserError
from hybridkit.machine import choose_device, choose_precision, peak_flops, spare_memory


def test_what_is_asked_for_is_taken() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_precision("fp64", "cpu") == "fp64"
    assert choose_precision("auto", "cpu") in ("bf16", "fp32")


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
from hybridkit.machine import keep_freed_memory
keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(32): torch.ones(2**24)
before = faults()
for _ in range(8): torch.ones(2**24)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_freed_memory_is_kept() -> None:
    """Of the 8 times 16,384 pages of 4 KiB that are else mapped anew."""
    run = subprocess.run([sys.executable, "-c", TAKE_AND_FREE], capture_output=True, check=True)
    assert int(run.stdout) < 1000
