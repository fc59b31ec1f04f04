"""The laws of a window policy: pure, within its shares, and at its largest outside training."""

import builtins
import datetime
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import ModuleType
from unittest import mock

import torch

from hybridkit.block import TrainStep, Window

SEEDS = 10
SIGMAS = 5.0  # of a binomial share: at this bound one correct policy in a million fails
CLOCKS = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time")
RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "SLURM_PROCID", "HOSTNAME", "CUDA_VISIBLE_DEVICES")


SEQUENCE = 100  # tokens of a row, for policies that need them


def check_window(window: Window, total_steps: int = 1000) -> None:
    """A policy is pure, gives each window in the share of steps that it states, and `largest` outside training."""
    _shares(window, total_steps)
    seeds = range(SEEDS)
    steps = [TrainStep(seed, step, total_steps, sequence=SEQUENCE) for seed in seeds for step in range(total_steps)]
    drawn = _pure(window, steps)
    for begin in range(0, len(drawn), total_steps):
        _kept(window, drawn[begin : begin + total_steps], total_steps, f"seed {begin // total_steps}")
    _kept(window, drawn, total_steps, f"{SEEDS} seeds")
    _other_entries(window, steps, drawn, total_steps)
    for step in (
        TrainStep(seed, step, n, training=False) for seed in (0, 3) for n in (1, 7, 1000) for step in range(n)
    ):
        for index in (0, 1, 5):
            assert window(step, index) == window.largest, f"{window} is not largest outside training, at {step}"


def _shares(window: Window, total_steps: int) -> None:
    shares = window.shares(SEQUENCE)
    assert shares == window.shares(SEQUENCE), f"{window} says other shares when asked again"
    if not window.needs_sequence:
        assert shares == window.probabilities() == window.shares(1), f"the shares of {window} depend on a row's length"
    assert abs(sum(shares.values()) - 1) < 1e-9, f"the shares of {window} do not add up to 1"
    assert all(type(value) is int and value >= 1 for value in shares), f"{window}: a window is a whole number from 1 on"
    assert all(share >= 0 for share in shares.values()), f"{window} has a negative share"
    assert max(shares) == window.largest, f"{window} leaves the windows of its shares: largest is {window.largest}"
    p, until = getattr(window, "p", None), getattr(window, "until", 1)
    if isinstance(p, int | float) and len(shares) == 2:
        said = f"p belongs to the short window: {window} gives it a share of {shares[min(shares)]}"
        assert abs(shares[min(shares)] - p * until) < 1e-9, said
    for steps in (1, 2, 7):
        for step in (TrainStep(seed, step, steps, sequence=SEQUENCE) for seed in range(SEEDS) for step in range(steps)):
            assert window(step, 0) in shares, f"{window} leaves the windows of its shares, at {step}"


def _pure(window: Window, steps: Sequence[TrainStep]) -> list[int]:
    """The answers: the same in any order, of an equal policy, in any process, rank and time, for any generator."""
    said, states = f"{window} answers differently the second time", (random.getstate(), torch.get_rng_state())
    drawn = [window(step, 0) for step in steps]
    assert drawn == [window(step, 0) for step in steps], said
    left = random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
    assert left, f"{window} uses a global random generator"
    assert all(type(value) is int for value in drawn), f"{window}: a window is a whole number"
    order = list(range(len(steps)))
    random.Random(0).shuffle(order)
    assert all(window(steps[place], 0) == drawn[place] for place in order), f"{said}, or in another order"
    said = f"{window} depends on the process, its rank, its clock or a random generator"
    for rank in ("1", "6"):
        with elsewhere(sys.modules[type(window).__module__], rank):
            others = [window.model_copy(deep=True) for _ in range(9)]
            answers = [others[place % 9](step, 0) for place, step in enumerate(steps[::3])]
        assert answers == drawn[::3], f"{said}, and not on the step alone"
    return drawn


def _kept(window: Window, drawn: Sequence[int], total_steps: int, where: str) -> None:
    shares = window.shares(SEQUENCE)
    assert set(drawn) <= set(shares), f"{window} leaves the windows of its shares: {set(drawn) - set(shares)}"
    for value, share in shares.items():
        # Five standard deviations, and one step's rounding of a boundary at each of two ends.
        error = abs(drawn.count(value) / len(drawn) - share)
        bound = SIGMAS * (share * (1 - share) / len(drawn)) ** 0.5 + 2 / total_steps
        found = drawn.count(value) / len(drawn)
        assert error <= bound, f"{window} gives {value} in {found:.4f} of the steps, not {share:.4f}; {where}"


def _other_entries(window: Window, steps: Sequence[TrainStep], drawn: Sequence[int], total_steps: int) -> None:
    """All entries share a batch's draw, unless the policy says `scope=layer`."""
    for index in (1, 7):
        other = [window(step, index) for step in steps]
        _kept(window, other, total_steps, f"entry {index}")
        if getattr(window, "scope", "layer") == "batch":
            assert other == drawn, f"{window} has the scope of a batch, and answers otherwise for entry {index}"


@contextmanager
def elsewhere(module: ModuleType, rank: str) -> Iterator[None]:
    """Another process as far as code in `module` can tell: rank, host, time of day, generators, `hash` of text."""
    states = random.getstate(), torch.get_rng_state()
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, dict.fromkeys(RANKS, rank)))
        _replace(stack, module, torch.distributed, "get_rank", lambda *args, **kwargs: int(rank))
        for name in ("getpid", "getppid"):
            _replace(stack, module, os, name, _later(getattr(os, name)))
        for name in CLOCKS:
            _replace(stack, module, time, name, _later(getattr(time, name)))
        _replace(stack, module, builtins, "hash", _salted(hash))
        for name, value in list(vars(module).items()):
            if value is datetime.datetime or value is datetime.date:
                stack.enter_context(mock.patch.object(module, name, _shifted(value)))
            elif value is datetime:
                stack.enter_context(mock.patch.object(datetime, "datetime", _shifted(datetime.datetime)))
        random.seed(98765)
        torch.manual_seed(98765)
        try:
            yield
        finally:
            random.setstate(states[0])
            torch.set_rng_state(states[1])


def _replace(stack: ExitStack, module: ModuleType, owner: ModuleType, name: str, other: Callable[..., object]) -> None:
    """Put `other` for a function where it lives, and under the names by which `module` imported it."""
    original = getattr(owner, name)
    stack.enter_context(mock.patch.object(owner, name, other))
    for alias, value in list(vars(module).items()):
        if value is original:
            stack.enter_context(mock.patch.object(module, alias, other))


def _later(clock: Callable[[], float]) -> Callable[[], float]:
    """`clock`, but each call is a day or more later than the one before."""
    looks = iter(range(1, 1 << 40))

    def look() -> float:
        return clock() + next(looks) * 123_457

    return look


def _salted(original: Callable[[object], int]) -> Callable[[object], int]:
    return lambda value: original(value) ^ 0x5DEECE66D if isinstance(value, str | bytes) else original(value)


def _shifted(kind: type) -> type:
    """`datetime` or `date` some days later."""

    class Later(kind):
        @classmethod
        def now(cls, *args: object) -> datetime.datetime:
            return datetime.datetime(2001, 2, 3, 4, 5, 6, 7)

        utcnow = now

        @classmethod
        def today(cls) -> datetime.datetime:
            return datetime.datetime(2001, 2, 3, 4, 5, 6, 7)

    return Later
