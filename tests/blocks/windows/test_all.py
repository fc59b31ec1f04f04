"""The window `all`: full attention, but on the steps of training that draw another."""

import pytest
import torch

import hybridkit as hk
from hybridkit.block import ALL, TrainStep
from hybridkit.language.parser import parse_pattern
from hybridkit.language.source import PatternError
from hybridkit.testing import check_window
from hybridkit_blocks.windows.cycle import Cycle
from hybridkit_blocks.windows.stoch import Stoch

PATTERN = "[sa:stoch(4,all,p=.5), mlstm]"
SIZES = {"width": 16, "heads": 2}


@pytest.mark.parametrize("policy", [Stoch(short=4, long=ALL), Cycle(first=4, second=ALL, period=6)], ids=str)
def test_laws(policy: Stoch) -> None:
    check_window(policy)


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


def test_metrics_say_all(tmp_path: object) -> None:
    recipe = {"pattern": PATTERN, "model": SIZES, "data": {"source": "recall(pairs=2)", "sequence": 32}}
    train = {"steps": 6, "batch_tokens": 64, "precision": "fp32"}
    run = hk.train(recipe | {"train": train}, f"{tmp_path}/run", quiet=True)
    assert {line["window"] for line in run.metrics if "loss" in line} == {4, "all"}
    assert hk.build(PATTERN, **SIZES).plan.pattern == "[sa:stoch(4,all), mlstm]"
    assert len(parse_pattern("sa:stoch(4,all)")) == 1


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("swa:stoch(4,all)", "no window of swa"),
        ("sa:stoch(all,4)", r"stoch\(4,all\)"),
        ("sa:ramp(4,all,.1,.5)", "two numbers"),
        ("sa:uniform(4,all)", "two numbers"),
    ],
)
def test_all_stands_only_for_the_largest_window_of_sa(pattern: str, said: str) -> None:
    with pytest.raises(PatternError, match=said):
        hk.build(pattern)
