"""The most FLOPs and bytes per second of this machine; utilizations are shares of them.

A ceiling is the best of all measurements: on a machine that others use too, a single one may be too low. Where training
itself ran faster than all measurements, its speed is the ceiling, so that no share exceeds 1.

N tokens, I and O the sizes of a linear layer's input and output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from statistics import median
from typing import Any, NamedTuple

import torch

from hybridkit.model.model import Model
from hybridkit.model.plan import Plan, Uninitialized
from hybridkit.system.choices import Precision
from hybridkit.system.machine import DTYPES
from hybridkit.system.timing import seconds

SMALLEST, LARGEST = 256, {"cpu": 1024, "cuda": 8192}  # sides of a square product
LONGEST = 0.05  # seconds that a product may take: bf16 may be emulated, and slow
SHAPES = 2  # largest linear layers of a model that are measured besides
FEWEST_ROWS = 64
COPIED = 2**28  # bytes: more than any cache

Timer = Callable[[Callable[[], object], torch.device], float]


class Work(NamedTuple):
    """A call, and the FLOPs or bytes that it takes."""

    amount: float
    call: Callable[[], object]


class Ceiling:
    """The most FLOPs or bytes a second. Every round measures each of the `works`."""

    def __init__(self, works: Sequence[Work], device: torch.device, timer: Timer = seconds) -> None:
        self._works, self._device, self._timer = works, device, timer
        self._rates: list[list[float]] = [[] for _ in works]
        self._observed, self.reached_by = 0.0, ""
        self.round, self.spent = 0.0, 0.0  # seconds: of the last round, and of all

    def measure(self) -> None:
        """One more round."""
        taken = [self._timer(work.call, self._device) for work in self._works]
        for rates, work, time in zip(self._rates, self._works, taken, strict=True):
            rates.append(work.amount / time)
        self.round = sum(taken)
        self.spent += self.round

    def observe(self, rate: float, what: str) -> None:
        """Something else ran at this rate. `reached_by` names what was faster than all measurements."""
        if rate > self.best:
            self._observed, self.reached_by = rate, what

    @property
    def best(self) -> float:
        """FLOPs or bytes a second."""
        return max(self._observed, *map(max, self._rates))

    @property
    def spread(self) -> float:
        """The best measurement over the median of those of the same work: 1 where the machine is quiet."""
        fastest = max(self._rates, key=max)
        return max(fastest) / median(fastest)

    @property
    def count(self) -> int:
        """Measurements so far."""
        return sum(map(len, self._rates))


class Ceilings(NamedTuple):
    """The ceilings that passes and parts are compared with; measured after every round of them."""

    matrix: Ceiling  # FLOP/s
    copy: Ceiling  # bytes a second

    def measure(self) -> None:
        """One more round of both."""
        self.matrix.measure()
        self.copy.measure()

    def to_json(self) -> dict[str, Any]:
        """The best of each, and its spread."""
        return {
            "matrix_flops_per_second": self.matrix.best,
            "matrix_spread": self.matrix.spread,
            "matrix_reached_by": self.matrix.reached_by or None,
            "copy_bytes_per_second": self.copy.best,
            "copy_spread": self.copy.spread,
            "copy_reached_by": self.copy.reached_by or None,
        }

    def share(self, passes: dict[str, dict[str, Any]], parts: list[dict[str, Any]]) -> None:
        """Add the shares of the ceilings, after all passes and parts ran: their speeds may raise the ceilings."""
        for name, measured in [*passes.items(), *((part["part"], part) for part in parts)]:
            self.matrix.observe(measured["flops_per_second"] or 0.0, name)
        decode = passes["decode"]
        self.copy.observe(decode["bytes_per_second"], "decode")
        for measured in [*passes.values(), *parts]:
            rate = measured["flops_per_second"]
            measured["mfu"] = rate and rate / self.matrix.best
        decode["copy_share"] = decode["bytes_per_second"] / self.copy.best


def matrix_ceiling(
    device: torch.device, precision: Precision, weights: Iterable[tuple[int, int]], tokens: int
) -> Ceiling:
    """Of products x @ W^T of random numbers: a large square one, and those of `weights` (O, I) with up to `tokens`."""
    square = _square(device, precision)
    flops = 2 * square**3
    shapes = [(square, square, square)]
    for wide, narrow in weights:
        shapes.append((min(tokens, max(FEWEST_ROWS, flops // (2 * wide * narrow))), narrow, wide))
    return Ceiling([_product(*shape, device, precision) for shape in shapes], device)


def copy_ceiling(device: torch.device, size: int = COPIED) -> Ceiling:
    """Bytes that copies read and write: of a large block, and of `size` bytes, which a cache may hold."""
    return Ceiling([_copy(number, device) for number in sorted({COPIED, min(size, COPIED)})], device)


def largest_weights(plan: Plan) -> list[tuple[int, int]]:
    """The shapes (O, I) of a model's largest linear layers, its head among them."""
    with torch.device("meta"), Uninitialized():
        shapes = {(p.shape[0], p.shape[1]) for p in Model(plan).parameters() if p.ndim == 2}
    return sorted(shapes, key=lambda shape: (shape[0] * shape[1], shape), reverse=True)[:SHAPES]


@cache
def peak_flops(device: torch.device, precision: Precision) -> float:
    """FLOP/s of a large square product, the best of several measurements, which are made once in a process."""
    ceiling = matrix_ceiling(device, precision, (), 1)
    for _ in range(10):
        ceiling.measure()
    return ceiling.best


@cache
def _square(device: torch.device, precision: Precision) -> int:
    """The side of the largest product that takes no longer than `LONGEST`."""
    side = SMALLEST
    while side < LARGEST[device.type]:
        work = _product(side, side, side, device, precision)
        if 8 * min(seconds(work.call, device) for _ in range(2)) > LONGEST:
            break
        side *= 2
    return side


def _product(rows: int, inner: int, columns: int, device: torch.device, precision: Precision) -> Work:
    """x (N, I) @ W (O, I)^T, as layers multiply. Random: products of ones run faster on some devices."""
    draw = torch.Generator(device).manual_seed(0)
    make = partial(torch.randn, generator=draw, device=device)
    x, w = (make(size, inner).to(DTYPES[precision]) for size in (rows, columns))
    return Work(2.0 * rows * inner * columns, lambda: x @ w.T)


def _copy(size: int, device: torch.device) -> Work:
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Work(2.0 * size, lambda: target.copy_(source))
