"""Whether two runs are the same, but for the figures that hold time."""

from typing import Any

import torch

from hybridkit.runs.run import Run

TIMED = {"seconds", "tokens_per_second", "mfu"}


def untimed(run: Run) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in TIMED} for line in run.metrics().lines]


def assert_same(run: Run, other: Run) -> None:
    assert untimed(run) == untimed(other)
    ours, theirs = run.weights(), other.weights()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
