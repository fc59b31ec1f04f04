"""What this machine is: its device, the precision it computes in, and its memory."""

import ctypes
import os
import platform
from functools import cache
from pathlib import Path

import torch

from hybridkit.system.choices import Precision
from hybridkit.system.errors import UserError

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}
_KEEP = {-4: 0, -1: -1}  # mallopt(3): M_MMAP_MAX, no block of its own mapping; M_TRIM_THRESHOLD, never shrink the heap
CPUINFO = "HYBRIDKIT_CPUINFO"  # in the environment: a file that is read in place of /proc/cpuinfo
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # as Linux names them; the last is Arm's


def choose_device(name: str) -> torch.device:
    """The device of `train.device`: auto takes cuda where there is one. Raises UserError where it is missing."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device: cuda is asked for, but torch finds no GPU here; use auto or cpu")
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def choose_precision(name: str, device: str) -> Precision:
    """The precision of `train.precision`: auto takes bf16 where the device computes in it, else fp32."""
    if name != "auto":
        return name  # type: ignore[return-value]
    native = torch.cuda.is_bf16_supported(including_emulation=False) if device == "cuda" else _cpu_has_bf16()
    return "bf16" if native else "fp32"


def weight_type(precision: str) -> torch.dtype:
    """The type that weights are kept in, and that a run decodes in: bf16 is only for the arithmetic of training."""
    return torch.float64 if precision == "fp64" else torch.float32


def spare_memory() -> int:
    """Bytes of main memory that a process can still take."""
    info = Path("/proc/meminfo")
    if info.exists():
        found = dict(line.split(":") for line in info.read_text(encoding="utf-8").splitlines())
        return int(found["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def device_memory(device: torch.device) -> int:
    """Bytes of a GPU's memory, or of the main memory that a process can still take."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else spare_memory()


def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees, where its C library is glibc; elsewhere nothing changes.

    Every training step takes and frees the same sizes. By default glibc hands blocks above 32 MiB back at once, and the
    next step pays for every page anew: 13 % of a step at 32,768 tokens a row (docs/results.md).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for option, value in _KEEP.items():
        libc.mallopt(option, value)


def _cpu_has_bf16() -> bool:
    info = Path(os.environ.get(CPUINFO) or "/proc/cpuinfo")
    return info.exists() and _says_bf16(info, info.stat().st_mtime_ns)


@cache
def _says_bf16(info: Path, changed: int) -> bool:
    """Whether a file lists such an instruction; it is read again once it has changed."""
    return not _BF16_FLAGS.isdisjoint(info.read_text(encoding="utf-8").split())
