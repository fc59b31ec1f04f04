"""Time and memory of calls: medians of repetitions that take turns, and the peak that a stretch of code reaches."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"  # what proc(5) says to write there


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done all that was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Wall-clock time of one call, all that it starts on the device included."""
    synchronize(device)
    begin = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - begin


def medians(
    calls: Mapping[str, Callable[[], object]],
    device: torch.device,
    repeat: int,
    between: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Median seconds of each call. The calls take turns, so that a busy machine slows all of them alike; the
    first round warms up and is not counted. `between` is called after every round, and not timed."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeat + 1):
        for name, call in calls.items():
            taken[name].append(seconds(call, device))
        between()
    return {name: median(times[1:]) for name, times in taken.items()}


class Peak:
    """The most memory held inside a `with` block, in bytes, once the block is left; `meaning` says of what."""

    def __init__(self, device: torch.device) -> None:
        self.bytes = 0
        self._device = device
        if device.type == "cuda":
            self.meaning = "peak of the CUDA allocator"
        elif _forget_peak():
            self.meaning = "peak resident memory of the process, its libraries included"
        else:
            self.meaning = "peak resident memory of the process since it began, its libraries included"

    def __enter__(self) -> Peak:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            _forget_peak()
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else _resident_peak()


def _forget_peak() -> bool:
    """Have the kernel forget this process's peak memory; False where it cannot."""
    try:
        _RESET.write_text(_FORGET_PEAK, encoding="utf-8")
    except OSError:
        return False
    return True


def _resident_peak() -> int:
    try:
        found = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="utf-8").splitlines())
        return int(found["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
