"""The learning rate's curve, point by point."""

from itertools import pairwise
from typing import Any

import pytest

from hybridkit.recipe.schema import Train
from hybridkit.training.schedule import learning_rate


def rates(**fields: Any) -> list[float]:
    train = Train(steps=100, lr=1.0, min_lr=0.1, **fields)
    return [learning_rate(step, train) for step in range(100)]


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_warms_up_to_lr_and_never_rises_after(schedule: str) -> None:
    curve = rates(schedule=schedule, warmup=0.1)
    assert curve[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert curve[10] == 1 and all(a >= b for a, b in pairwise(curve[10:]))


def test_ends() -> None:
    assert rates(schedule="cosine", warmup=0)[-1] == pytest.approx(0.1)
    assert rates(schedule="wsd", warmup=0)[-1] == pytest.approx(0.1)
    assert rates(schedule="wsd", warmup=0)[75] == 1
    assert rates(schedule="constant", warmup=0)[-1] == 1
    assert rates(schedule="cosine", warmup=0)[33] == pytest.approx(0.1 + 0.9 * 0.75)  # a third of the way: cos 60


def test_one_step() -> None:
    assert learning_rate(0, Train(steps=1, lr=1.0, min_lr=0.1)) == 1
