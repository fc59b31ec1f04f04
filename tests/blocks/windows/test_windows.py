"""The shipped window policies: the conformance laws, their edges, and their statistics."""

import pytest

from hybridkit.block import TrainStep, Window
from hybridkit.language.parser import parse_pattern
from hybridkit.model.config import ModelConfig
from hybridkit.model.plan import compile_pattern
from hybridkit.registry.registry import REGISTRY
from hybridkit.testing import check_window
from hybridkit_blocks.windows.cycle import Cycle
from hybridkit_blocks.windows.fixed import Fixed
from hybridkit_blocks.windows.ramp import Ramp
from hybridkit_blocks.windows.schedule import Schedule
from hybridkit_blocks.windows.stoch import Stoch
from hybridkit_blocks.windows.uniform import Uniform

POLICIES = [
    Fixed(window=128),
    Stoch(short=128, long=2048),
    Stoch(short=128, long=2048, p=0.75, until=0.9),
    Stoch(short=16, long=64, p=0.25, scope="layer"),
    Stoch(short=128, long=128),
    Uniform(low=3, high=10),
    Uniform(low=16, high=60, step=16, until=0.5),
    Schedule(stages=((0, 128), (0.5, 512), (0.9, 2048))),
    Schedule(stages=((0, 512), (0.25, 64), (0.5, 512))),
    Ramp(first=16, last=64, begin=0.5, end=0.9),
    Ramp(first=100, last=3, begin=0, end=1),
    Ramp(first=7, last=7, begin=0.2, end=0.3),
    Cycle(first=128, second=2048, period=10),
    Cycle(first=64, second=8, period=7),
    Cycle(first=5, second=5, period=2),
]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_laws(policy: Window) -> None:
    check_window(policy)


def test_a_share_of_p_over_100_000_steps_and_none_after_until() -> None:
    policy, steps = Stoch(short=128, long=2048, p=0.75, until=0.9), 100_000
    drawn = [policy(TrainStep(3, step, steps), 0) for step in range(steps)]
    before, after = drawn[: int(0.9 * steps)], drawn[int(0.9 * steps) :]
    error = abs(before.count(128) / len(before) - 0.75)
    assert error < 4 * (0.75 * 0.25 / len(before)) ** 0.5  # four standard deviations of the share
    assert set(after) == {2048}


def test_layers_share_one_number_unless_the_scope_says_otherwise() -> None:
    shared, apart = Stoch(short=1, long=2), Stoch(short=1, long=2, scope="layer")
    steps = [TrainStep(0, step, 1000) for step in range(1000)]
    assert all(shared(step, 0) == shared(step, 7) for step in steps)
    agreeing = sum(apart(step, 0) == apart(step, 7) for step in steps)
    assert 400 < agreeing < 600  # two fair coins agree half the time; 100 is six standard deviations


def test_one_number_decides_for_policies_of_any_size() -> None:
    small, large = Stoch(short=8, long=64), Stoch(short=128, long=2048)
    steps = [TrainStep(0, step, 300) for step in range(300)]
    assert [small(step, 0) == 8 for step in steps] == [large(step, 4) == 128 for step in steps]


def test_all_policies_of_a_stack_read_one_number_a_batch() -> None:
    """At batch scope; a layer that draws for itself agrees with the others about as often as chance has it."""
    pattern = "[swa:stoch(8,64,p=.25), swa:stoch(128,2048,p=.75), swa:uniform(1,4), swa:stoch(3,5,p=.25,scope=layer)]"
    plan = compile_pattern(pattern, ModelConfig(width=32, heads=2, vocab=8, ffn=None))
    steps = [plan.windows(TrainStep(7, step, 400)) for step in range(400)]
    for first, second, quarter, _ in steps:
        assert (first == 8) == (quarter == 1)  # u < 1/4
        assert (second == 128) == (quarter != 4)  # u < 3/4
    both = sum((first == 8) == (own == 3) for first, _, _, own in steps)
    assert abs(both - 400 * 5 / 8) < 6 * (400 * 15 / 64) ** 0.5, "six standard deviations from what chance gives"


def test_seeds_and_steps_draw_apart() -> None:
    policy = Stoch(short=1, long=2)
    runs = {tuple(policy(TrainStep(seed, step, 100), 0) for step in range(100)) for seed in range(20)}
    assert len(runs) == 20


@pytest.mark.parametrize(("p", "window"), [(0.0, 2048), (1.0, 128)])
def test_certain_coins(p: float, window: int) -> None:
    policy = Stoch(short=128, long=2048, p=p)
    assert {policy(TrainStep(0, step, 500), 0) for step in range(500)} == {window}


def test_a_schedule_changes_on_the_step_it_names() -> None:
    policy = Schedule(stages=((0, 1), (0.5, 2), (0.9, 3)))
    assert [policy(TrainStep(0, step, 10), 0) for step in range(10)] == [1] * 5 + [2] * 4 + [3]


def test_a_ramp_is_even_in_the_logarithm() -> None:
    policy = Ramp(first=128, last=2048, begin=0.5, end=0.9)
    drawn = [policy(TrainStep(0, step, 1000), 0) for step in range(1000)]
    assert drawn[:501] == [128] * 501 and drawn[900:] == [2048] * 100
    assert [drawn[step] for step in (600, 700, 800)] == [256, 512, 1024]
    falling = Ramp(first=2048, last=128, begin=0.5, end=0.9)
    assert [falling(TrainStep(0, step, 1000), 0) for step in (0, 600, 700, 800, 999)] == [2048, 1024, 512, 256, 128]


def test_a_cycle_changes_after_half_a_period() -> None:
    policy = Cycle(first=1, second=2, period=5)
    assert [policy(TrainStep(0, step, 10), 0) for step in range(10)] == [1, 1, 1, 2, 2] * 2


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Stoch(short=2048, long=128),
        lambda: Stoch(short=0, long=128),
        lambda: Stoch(short=1, long=2, p=1.5),
        lambda: Fixed(window=0),
        lambda: Uniform(low=9, high=3),
        lambda: Schedule(stages=()),
        lambda: Schedule(stages=((0.1, 128),)),
        lambda: Schedule(stages=((0, 128), (0.5, 1), (0.5, 2))),
        lambda: Schedule(stages=((0, 128), (1.0, 1))),
        lambda: Schedule(stages=((0, 0),)),
        lambda: Schedule.read([(None, 128)]),
        lambda: Ramp(first=1, last=2, begin=0.5, end=0.5),
        lambda: Ramp(first=1, last=2, begin=0.5, end=1.1),
        lambda: Ramp(first=0, last=2, begin=0, end=1),
        lambda: Cycle(first=1, second=2, period=1),
    ],
)
def test_windows_that_make_no_sense_are_refused(wrong: object) -> None:
    with pytest.raises(ValueError):
        wrong()  # type: ignore[operator]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_a_policy_says_itself(policy: Window) -> None:
    (call,) = parse_pattern(f"swa:{policy}")
    assert call.window is not None
    assert REGISTRY.window(call.window.name).read(call.window.arguments) == policy
