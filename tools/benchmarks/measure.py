"""Time and memory of calls, as several benchmarks measure them. Imported by `peers.py`, `passes.py` and others.

Processor time is less affected by other load on the machine than the time on the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from hybridkit.system.timing import Peak, synchronize

CPU = torch.device("cpu")
Name = TypeVar("Name")


class Times(NamedTuple):
    """Seconds, or ratios of them: on the clock, and of the processor."""

    wall: float
    processor: float


def both_clocks(call: Callable[[], object], device: torch.device = CPU) -> Times:
    """Of one call, all that it starts on the device included."""
    synchronize(device)
    wall, processor = time.perf_counter(), time.process_time()
    call()
    synchronize(device)
    return Times(time.perf_counter() - wall, time.process_time() - processor)


def take_turns(
    calls: Mapping[Name, Callable[[], object]], rounds: int, device: torch.device = CPU
) -> dict[Name, list[Times]]:
    """The times of every call in each round, after a round that warms up."""
    taken: dict[Name, list[Times]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            taken[name].append(both_clocks(call, device))
    return {name: times[1:] for name, times in taken.items()}


def medians(taken: Sequence[Times]) -> Times:
    """Over the rounds."""
    return Times(*map(median, zip(*taken, strict=True)))


def ratios(taken: Sequence[Times], to: Sequence[Times]) -> Times:
    """The medians over the rounds of one call's times over another's."""
    return medians([Times(a.wall / b.wall, a.processor / b.processor) for a, b in zip(taken, to, strict=True)])


def peak_growth(run: Callable[[], object]) -> int:
    """Bytes by which a call raises the peak of this process's resident memory over what it holds before."""
    peak = Peak(CPU)
    with peak:
        pass
    before = peak.bytes
    with peak:
        run()
    return peak.bytes - before


def kept_bytes(run: Callable[[], object], own: set[int]) -> int:
    """Bytes of the storages that autograd saves in a forward pass, but for those of `own` addresses."""
    saved = list[Tensor]()  # held until all is counted, so that no memory is used twice

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        made = run()
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}
    del made
    return sum(size for address, size in storages.items() if address not in own)
