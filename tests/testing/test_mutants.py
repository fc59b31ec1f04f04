"""The laws refuse every broken block and policy, by an AssertionError that names the law, and let right ones pass."""

import warnings

import pytest
from mutants import MUTANTS, POLICIES, RULES, Mutant, experts, many, policies, taken
from mutants.base import ATTEND, RUNNING

from hybridkit import testing
from hybridkit.block import Block, Dims

DIMS = Dims(width=8, heads=2, vocab=257)


@pytest.mark.slow
@pytest.mark.parametrize("broken", MUTANTS, ids=lambda m: f"{type(m.block).__name__}: {m.fault}")
def test_a_broken_block_is_refused(broken: Mutant) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", testing.UnverifiedCost)
        with pytest.raises(AssertionError, match=r"^law of "):
            testing.check_block(broken.block, DIMS)


@pytest.mark.parametrize("broken", many.WINDOWED, ids=lambda m: m.fault)
def test_a_broken_window_is_refused(broken: Mutant) -> None:
    with pytest.raises(AssertionError, match=r"^law of windows: "):
        testing.check_windows(broken.block, DIMS)


def test_a_sum_of_exponentials_that_overflows_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"^law of split: "):
        testing.check_split(many.LOUD.block, DIMS)


@pytest.mark.slow
@pytest.mark.parametrize("right", [RUNNING, ATTEND], ids=str)
def test_a_right_mixer_passes_and_its_cost_is_said_to_be_unverified(right: Block) -> None:
    with pytest.warns(testing.UnverifiedCost, match="names no cost_reference"):
        testing.check_block(right, DIMS)


@pytest.mark.slow
@pytest.mark.parametrize("right", experts.RIGHT, ids=str)
def test_a_right_mixture_of_experts_passes(right: Block) -> None:
    testing.check_block(right, DIMS)


@pytest.mark.parametrize("broken", RULES, ids=lambda m: m.fault)
def test_a_broken_rule_from_attention_is_refused(broken: Mutant) -> None:
    with pytest.raises(AssertionError, match=rf"^law of from_attention: .*(?s:.*){RULES[broken]}"):
        testing.check_from_attention(broken.block, DIMS)


def test_a_right_rule_from_attention_passes() -> None:
    testing.check_from_attention(taken.RIGHT, DIMS)


@pytest.mark.parametrize("broken", POLICIES, ids=lambda m: m.fault)
def test_a_broken_policy_is_refused(broken: policies.Mutant) -> None:
    with pytest.raises(AssertionError, match=policies.SAID[broken.fault]):
        testing.check_window(broken.policy)


def test_a_right_policy_passes() -> None:
    testing.check_window(policies.RIGHT)
