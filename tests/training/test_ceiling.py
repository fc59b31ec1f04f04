"""Ceilings are the best of all that was measured or observed, whatever a clock says; no share of one exceeds 1."""

import itertools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import hybridkit
from hybridkit.training.ceiling import Ceiling, Ceilings, Work, largest_weights, matrix_ceiling
from hybridkit.training.throughput import FIRST, SHARE, Speed

CPU = torch.device("cpu")


def clock(times: Iterator[float]) -> Callable[[Callable[[], object], torch.device], float]:
    """A stopwatch that runs what it is given, and says what it likes."""

    def time(call: Callable[[], object], device: torch.device) -> float:
        call()
        return next(times)

    return time


def ceiling(*times: float, amount: float = 100.0) -> Ceiling:
    return Ceiling([Work(amount, lambda: None)], CPU, clock(itertools.cycle(times)))


def test_the_best_counts_and_the_spread_is_said() -> None:
    found = ceiling(2.0, 1.0, 4.0)
    for _ in range(3):
        found.measure()
    assert (found.best, found.spread, found.count, found.reached_by) == (100.0, 2.0, 3, "")


def test_what_was_observed_raises_it_and_what_is_slower_does_not() -> None:
    found = ceiling(1.0)
    found.measure()
    found.observe(99.0, "slow")
    assert (found.best, found.reached_by) == (100.0, "")
    found.observe(150.0, "fast")
    assert (found.best, found.reached_by) == (150.0, "fast")


def test_products_are_of_random_numbers_in_the_layout_and_the_shapes_of_layers() -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Watched(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.Tensor.matmul or func is torch.Tensor.__matmul__:
                seen.append(args)
            return func(*args, **(kwargs or {}))

    plan = hybridkit.build("[swa:4, mlstm]", width=32, heads=2).plan
    with torch.device("meta"):
        shapes = [tuple(p.shape) for p in hybridkit.model.model.Model(plan).parameters() if p.ndim == 2]
    weights = largest_weights(plan)
    assert weights[0] == max(shapes, key=lambda shape: shape[0] * shape[1])
    found = matrix_ceiling(CPU, "fp32", weights, 128)
    with Watched():
        found.measure()
    assert {tuple(b.T.shape) for _, b in seen[1:]} == set(weights) and len(seen) == 1 + len(weights)
    for x, w in seen:
        assert x.is_contiguous() and w.T.is_contiguous(), "x (N, I) @ W (O, I)^T"
        assert x.std() > 0.9 and w.std() > 0.9 and len(x) <= max(128, x.shape[1])


def speed(ceiling: Ceiling, ranks: int = 1) -> Speed:
    plan = hybridkit.build("[swa:4, mlstm]", width=32, heads=2).plan
    return Speed(plan, SimpleNamespace(ranks=ranks, device=CPU, precision="fp32"), 64, 2, ceiling)  # type: ignore[arg-type]


@pytest.mark.parametrize("ranks", [1, 4])
def test_no_mfu_exceeds_1_however_low_the_first_measurement(ranks: int) -> None:
    slow = ceiling(1.0, amount=1.0)  # 1 FLOP/s
    found = speed(slow, ranks)
    shares = [found.metrics(2, [4, None, None, None], seconds)["mfu"] for seconds in (1.0, 0.5, 2.0)]
    assert shares[:2] == [1.0, 1.0] and shares[2] == pytest.approx(0.25)
    assert "reached in training" in str(found)


def test_measuring_goes_on_in_training_and_takes_less_than_1_percent_of_it() -> None:
    """A machine that was busy when training began, and is quiet later."""
    times = itertools.chain([0.08], itertools.repeat(0.04))
    watched = Ceiling([Work(1e12, lambda: None)], CPU, clock(times))
    found = speed(watched)
    first, steps = watched.spent, 1000
    shares = [found.metrics(2, [4, None, None, None], 0.1)["mfu"] for _ in range(steps)]
    assert first <= max(FIRST, 0.08)
    assert SHARE / 2 * 0.1 * steps < watched.spent - first <= SHARE * 0.1 * steps < 0.01 * 0.1 * steps
    assert shares[-1] == pytest.approx(shares[0] / 2), "the later, better measurement counts"


def test_a_bench_has_no_share_above_1_and_says_what_raised_the_ceiling() -> None:
    low, copies = ceiling(1.0), ceiling(1.0)
    both = Ceilings(low, copies)
    both.measure()
    passes = {
        "forward": {"flops_per_second": 50.0},
        "decode": {"flops_per_second": 10.0, "bytes_per_second": 400.0},
    }
    parts = [{"part": "ffn", "flops_per_second": 200.0}, {"part": "embedding", "flops_per_second": None}]
    both.share(passes, parts)
    assert [passes["forward"]["mfu"], passes["decode"]["mfu"], parts[0]["mfu"]] == [0.25, 0.05, 1.0]
    assert parts[1]["mfu"] is None and passes["decode"]["copy_share"] == 1.0
    assert (both.to_json()["matrix_reached_by"], both.to_json()["copy_reached_by"]) == ("ffn", "decode")
