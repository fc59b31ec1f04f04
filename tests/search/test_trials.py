"""Pareto front, ranking, intervals, importance and pruning of trials."""

import random
from itertools import product

import pytest

from hybridkit.search.pruner import choose_pruner, rung_to_stop_at, running_losses
from hybridkit.search.pruners.halving import Halving
from hybridkit.search.pruners.hyperband import Hyperband
from hybridkit.search.results import importances
from hybridkit.search.schema import StudyFile
from hybridkit.search.trials import Trial, half_interval, pareto_front, rank


def test_the_front_has_the_rows_that_no_other_dominates() -> None:
    draw = random.Random(0)
    for maximized in product([False, True], repeat=2):
        points = [(draw.randint(0, 9), draw.randint(0, 9)) for _ in range(40)]
        signs = [-1 if more else 1 for more in maximized]

        def beats(a: tuple[int, int], b: tuple[int, int], signs: list[int] = signs) -> bool:
            no_worse = all(s * x <= s * y for s, x, y in zip(signs, a, b, strict=True))
            return no_worse and a != b

        best = [i for i, mine in enumerate(points) if not any(beats(other, mine) for other in points)]
        assert pareto_front(points, maximized) == best
        order = rank(points, maximized)
        assert sorted(order) == list(range(40)) and set(order[: len(best)]) == set(best)
        place = {index: position for position, index in enumerate(order)}
        assert all(place[i] < place[j] for i, j in product(range(40), repeat=2) if beats(points[i], points[j]))


def test_intervals_are_those_of_student() -> None:
    assert half_interval([3.0]) is None
    assert half_interval([1.0, 1.0, 1.0]) is None, "equal values do not show how much others would differ"
    assert half_interval([1.0, 2.0, 3.0]) == pytest.approx(4.303 * 1 / 3**0.5, rel=1e-3)
    wide = half_interval([float(n % 2) for n in range(62)])
    assert wide == pytest.approx(2.000 * (0.25 * 62 / 61) ** 0.5 / 62**0.5, rel=1e-3), (
        "t at 61 degrees of freedom: 2.000"
    )


def test_importance_of_an_additive_function_is_its_share_of_the_variance() -> None:
    choices = [{"a": a, "b": b, "c": c, "one": 1} for a, b, c in product(range(3), range(3), range(2))]
    shares = importances(choices, [3.0 * choice["a"] - 1.0 * choice["b"] for choice in choices], set())
    assert shares == pytest.approx({"a": 0.9, "b": 0.1, "c": 0, "one": 0})
    assert importances(choices, [1.0] * len(choices), set()) == dict.fromkeys("abc", 0.0) | {"one": 0.0}
    numbers = [{"x": n / 16} for n in range(16)]
    assert importances(numbers, [float(n // 4) for n in range(16)], {"x"})["x"] == pytest.approx(1)


def test_rungs() -> None:
    assert Halving(min_steps=10, factor=3).rungs(0, 100) == [10, 30, 90]
    assert Halving(min_steps=10, factor=3).rungs(0, 90) == [10, 30], "the end is no rung"
    assert Halving(min_steps=10).rungs(0, 5) == Hyperband(min_steps=10).rungs(3, 5) == []
    brackets = [Hyperband(min_steps=10).rungs(number, 100) for number in range(4)]
    assert brackets == [[10, 30, 90], [30, 90], [90], [10, 30, 90]]


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("hyperband", Hyperband()),
        ({"name": "halving", "min_steps": 10}, Halving(min_steps=10)),
        ({"kind": "hyperband", "factor": 2}, Hyperband(factor=2)),  # as files said it before pruners were a kind
        ({"min_steps": 10, "factor": 2}, Halving(min_steps=10, factor=2)),
    ],
)
def test_a_pruner_is_named_with_its_fields(said: object, meant: Halving) -> None:
    read = StudyFile.model_validate({"extends": "a", "pruner": said}).pruner
    assert read is not None and choose_pruner(read) == meant


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("havling", "did you mean halving"),
        ({"name": "halving", "facter": 2}, "has no 'facter'"),
        ({"name": "halving", "factor": 1}, "greater than or equal to 2"),
        (["halving"], "a name or a mapping"),
    ],
)
def test_a_pruner_that_is_not_there_is_refused(said: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        StudyFile.model_validate({"extends": "a", "pruner": said})


def test_the_running_loss_is_that_of_the_last_steps() -> None:
    lines = [{"step": n, "loss": float(n)} for n in range(1, 41)] + [{"step": 40, "val_loss": 0.0}]
    assert running_losses(lines, [10, 30, 90]) == {"10": 5.5, "30": 20.5}


def test_a_third_of_the_trials_continues() -> None:
    settings = Halving(min_steps=10, factor=3)
    others = [Trial(n, "done", {}, rungs={"10": float(n)}) for n in range(8)]
    assert rung_to_stop_at(settings, {"10": 99.0}, others[:1]) is None, "one third of two trials is less than one"
    assert rung_to_stop_at(settings, {"10": 2.0}, others) is None
    assert rung_to_stop_at(settings, {"10": 2.5}, others) == "10"
    assert rung_to_stop_at(settings, {"10": -1.0, "30": 99.0}, others) is None, "no other trial has reached this rung"
    assert rung_to_stop_at(settings, {"10": 99.0, "30": 1.0}, others) is None, "what it was earlier decides no more"
