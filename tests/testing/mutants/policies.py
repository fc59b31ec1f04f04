"""Window policies that are broken on purpose."""

import os
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import Field

from hybridkit.block import TrainStep, Window

DAY = 86_400  # seconds; a clock looked at in shorter spans may tick between two calls of the law


class Mutant(NamedTuple):
    """A policy with one fault."""

    fault: str
    policy: Window


class Coin(Window):
    """2 with probability p, else 8; right."""

    p: float = Field(0.5, ge=0, le=1)
    calls: ClassVar[list[int]] = []

    def __call__(self, step: TrainStep, index: int) -> int:
        return 8 if not step.training else 2 if step.uniform() < self.p else 8

    @property
    def largest(self) -> int:
        return 8

    def probabilities(self) -> Mapping[int, float]:
        return {2: self.p, 8: 1 - self.p}


def coin(
    fault: str, call: Callable[[Coin, TrainStep, int], Any] | None = None, p: float = 0.5, **methods: Any
) -> Mutant:
    """A coin that answers otherwise in training."""

    def answer(self: Coin, step: TrainStep, index: int) -> Any:
        assert call is not None
        return call(self, step, index) if step.training else 8

    own = {"__call__": answer} if call else {}
    return Mutant(fault, type("BrokenCoin", (Coin,), {**own, **methods, "__module__": __name__})(p=p))


def right(step: TrainStep, p: float = 0.5) -> int:
    return 2 if step.uniform() < p else 8


def seeded(seed: Callable[[int], object], step: TrainStep, draw: Callable[[], float]) -> int:
    seed(1000 * step.seed + step.step)
    return 2 if draw() < 0.5 else 8


def of_torch(seed: int) -> None:
    torch.default_generator.manual_seed(seed)  # torch.manual_seed takes twenty times as long


def drawn() -> float:
    return torch.rand(()).item()


def alternating(self: Coin, step: TrainStep, index: int) -> int:
    self.calls.append(1)
    return (2, 8)[len(self.calls) % 2]


RIGHT = Coin(p=0.75)
MUTANTS = [
    coin("it draws from torch's generator", lambda self, step, index: (2, 8)[int(torch.randint(2, ()))]),
    coin("it draws from Python's generator", lambda self, step, index: random.choice((2, 8))),
    coin(
        "it seeds torch's generator, then draws",
        lambda self, step, index: seeded(of_torch, step, drawn),
    ),
    coin("it seeds Python's generator, then draws", lambda self, step, index: seeded(random.seed, step, random.random)),
    coin("it draws from the operating system", lambda self, step, index: 2 if os.urandom(1)[0] < 128 else 8),
    coin("it depends on the rank", lambda self, step, index: 8 if os.environ.get("RANK", "0") != "0" else right(step)),
    coin("it depends on the process", lambda self, step, index: (2, 8)[(os.getpid() + step.step) % 2]),
    coin("it reads the clock", lambda self, step, index: (2, 8)[(int(time.time()) // DAY + step.step) % 2]),
    coin("it depends on how often it was asked", alternating),
    coin(
        "it hashes text by a salt of the process",
        lambda self, step, index: (2, 8)[hash(f"{step.step}/{step.seed}") % 2],
    ),
    coin("it depends on where it lies in memory", lambda self, step, index: (2, 8)[hash((id(self), step.step)) % 2]),
    coin("p belongs to the long window", lambda self, step, index: 8 if step.uniform() < self.p else 2, p=0.75),
    coin(
        "p belongs to the long window, and the shares say so",
        lambda self, step, index: right(step, 1 - self.p),
        p=0.75,
        probabilities=lambda self: {2: 1 - self.p, 8: self.p},
    ),
    coin("wrong shares", lambda self, step, index: right(step, 0.45)),
    coin("one draw for a whole run", lambda self, step, index: 2 if TrainStep(step.seed, 0, 1).uniform() < 0.5 else 8),
    coin("larger than the largest", lambda self, step, index: 2 if step.uniform() < 0.5 else 16),
    coin("larger than the largest, seldom", lambda self, step, index: 16 if step.uniform() < 0.002 else right(step)),
    coin("no whole number", lambda self, step, index: float(right(step))),
    coin("shares that do not add up", probabilities=lambda self: {2: 0.5, 8: 0.4}),
    coin("training goes on in evaluation", __call__=lambda self, step, index: right(step)),
    coin("the smallest window in evaluation", __call__=lambda self, step, index: right(step) if step.training else 2),
    coin("the largest is not among its shares", largest=property(lambda self: 64)),
]

AGAIN, ELSEWHERE = "answers differently the second time", "depends on the process, its rank, its clock or a random"
SAID = {  # of each, by the law
    "it draws from torch's generator": AGAIN,
    "it draws from Python's generator": AGAIN,
    "it seeds torch's generator, then draws": "uses a global random generator",
    "it seeds Python's generator, then draws": "uses a global random generator",
    "it draws from the operating system": AGAIN,
    "it depends on the rank": ELSEWHERE,
    "it depends on the process": ELSEWHERE,
    "it reads the clock": ELSEWHERE,
    "it depends on how often it was asked": f"{AGAIN}, or in another order",
    "it hashes text by a salt of the process": ELSEWHERE,
    "it depends on where it lies in memory": ELSEWHERE,
    "p belongs to the long window": "gives 2 in .* of the steps, not 0.7500",
    "p belongs to the long window, and the shares say so": "^p belongs to the short window",
    "wrong shares": "gives 2 in .* of the steps, not 0.5000; 10 seeds",
    "one draw for a whole run": "gives 2 in .* of the steps, not 0.5000; seed",
    "larger than the largest": "leaves the windows of its shares, at",
    "larger than the largest, seldom": r"leaves the windows of its shares: \{16\}",
    "no whole number": "a window is a whole number",
    "shares that do not add up": "do not add up to 1",
    "training goes on in evaluation": "is not largest outside training",
    "the smallest window in evaluation": "is not largest outside training",
    "the largest is not among its shares": "leaves the windows of its shares: largest is 64",
}
