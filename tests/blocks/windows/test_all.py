"""The window `all`: full attention, but on the steps of training that draw another."""

import pytest
import torch

import hybridkit as hk
from hybridkit.block import ALL, TrainStep, Window
from hybridkit.language.parser import parse_pattern
from hybridkit.language.pattern_source import PatternError
from hybridkit.system.errors import UserError
from hybridkit.testing import check_window
from hybridkit_blocks.windows.cycle import Cycle
from hybridkit_blocks.windows.ramp import Ramp
from hybridkit_blocks.windows.stoch import Stoch
from hybridkit_blocks.windows.uniform import Uniform

PATTERN = "[sa:stoch(4,all,p=.5), mlstm]"
SIZES = {"width": 16, "heads": 2}


POLICIES = [
    Stoch(short=4, long=ALL),
    Cycle(first=4, second=ALL, period=6),
    Ramp(first=4, last=ALL, begin=0.2, end=0.7),
    Ramp(first=ALL, last=4, begin=0.2, end=0.7),
    Ramp(first=300, last=ALL, begin=0.2, end=0.7),  # longer than a row
    Uniform(low=4, high=ALL, step=9, until=0.8),
    Uniform(low=300, high=ALL),
]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_laws(policy: Window) -> None:
    check_window(policy)


def test_a_ramp_to_all_ends_at_the_length_of_a_row_and_then_has_no_limit() -> None:
    ramp = Ramp(first=4, last=ALL, begin=0.25, end=0.75)
    drawn = [ramp(TrainStep(0, step, 100, sequence=64), 0) for step in range(100)]
    assert drawn[:26] == [4] * 26 and drawn[50] == 16 and drawn[74] == 61 and drawn[75:] == [ALL] * 25
    numbers = Ramp(first=4, last=64, begin=0.25, end=0.75)
    assert drawn[:75] == [numbers(TrainStep(0, step, 100), 0) for step in range(75)]
    with pytest.raises(ValueError, match="needs the length of a training sequence"):
        ramp(TrainStep(0, 50, 100), 0)


def test_a_draw_up_to_all_has_the_windows_below_a_row_and_none() -> None:
    drawn = Uniform(low=8, high=ALL, step=8)
    assert list(drawn.shares(32)) == [8, 16, 24, ALL] and list(drawn.shares(33)) == [8, 16, 24, 32, ALL]
    with pytest.raises(UserError, match=r"uniform\(1,all\), in sequences of 5,000 tokens: 4999 windows are more than"):
        hk.costs("sa:uniform(1,all)", context=5000, **SIZES)


def test_it_is_full_attention_or_a_window_of_the_size_drawn() -> None:
    model = hk.build(PATTERN, **SIZES).double()
    full, near = hk.build("[sa, mlstm]", **SIZES).double(), hk.build("[swa:4, mlstm]", **SIZES).double()
    full.load_state_dict(model.state_dict())
    near.load_state_dict({name.replace(".sa.", ".swa."): value for name, value in model.state_dict().items()})
    tokens = torch.randint(257, (2, 30), generator=torch.Generator().manual_seed(0))
    drawn = [model.plan.windows(TrainStep(0, step, 40)) for step in range(40)]
    assert {windows[0] for windows in drawn} == {4, ALL}
    for windows, other in ((next(w for w in drawn if w[0] == ALL), full), (next(w for w in drawn if w[0] == 4), near)):
        torch.testing.assert_close(model(tokens, windows=windows)[0], other(tokens)[0])
    torch.testing.assert_close(model(tokens)[0], full(tokens)[0])
    head, states = model(tokens[:, :17])
    rest, _ = model(tokens[:, 17:], states)
    torch.testing.assert_close(torch.cat([head, rest], 1), full(tokens)[0])


def test_costs_lie_between_and_states_are_those_of_full_attention() -> None:
    some, full, near = (hk.costs(f"[{one}]*2", context=64, **SIZES) for one in ("sa:stoch(4,all)", "sa", "swa:4"))
    forward = [cost["flops_per_token"]["forward"] for cost in (some, full, near)]
    assert forward[0] == (forward[1] + forward[2]) / 2
    assert (
        some["state_bytes"] == full["state_bytes"]
        and some["flops_per_token"]["decode"] == full["flops_per_token"]["decode"]
    )


@pytest.mark.slow
def test_metrics_say_all(tmp_path: object) -> None:
    recipe = {"pattern": PATTERN, "model": SIZES, "data": {"source": "recall(pairs=2)", "sequence": 32}}
    train = {"steps": 6, "batch_tokens": 64, "precision": "fp32"}
    run = hk.train(recipe | {"train": train}, f"{tmp_path}/run", quiet=True)
    assert {line["window"] for line in run.metrics if "loss" in line} == {4, "all"}
    recipe["pattern"] = "[sa:ramp(4,all,0,.9), mlstm]"
    run = hk.train(recipe | {"train": train}, f"{tmp_path}/ramp", quiet=True)
    assert [line["window"] for line in run.metrics if "loss" in line] == [4, 6, 9, 13, 19, 27]
    assert hk.build(PATTERN, **SIZES).plan.pattern == "[sa:stoch(4,all), mlstm]"
    assert len(parse_pattern("sa:stoch(4,all)")) == 1


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("swa:stoch(4,all)", "no window of swa"),
        ("sa:stoch(all,4)", r"stoch\(4,all\)"),
        ("swa:ramp(4,all,.1,.5)", "no window of swa"),
        ("swa:uniform(4,all)", "no window of swa"),
        ("sa:uniform(all,4)", "`low` should be a whole number"),
    ],
)
def test_all_stands_only_for_the_largest_window_of_sa(pattern: str, said: str) -> None:
    with pytest.raises(PatternError, match=said):
        hk.build(pattern)
