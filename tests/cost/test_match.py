"""Matched recipes cost what they claim, no neighbouring size comes nearer, and they load."""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridkit.cost.flops import CostSettings
from hybridkit.cost.match import (
    MEASURES,
    CostMeasure,
    match,
    match_steps,
    nearest_size,
    training_flops,
    width_step,
    with_width,
)
from hybridkit.model.loading import plan
from hybridkit.recipe.files import Loaded, dump
from hybridkit.runs.run import load_recipe
from hybridkit.system.errors import UserError

CASE = CostSettings(4096)


def recipe(folder: Path, pattern: str, name: str = "other.yaml", **model: int) -> Loaded:
    file = folder / name
    sizes = {"width": 128, "heads": 4, **model}
    file.write_text(f"pattern: {pattern}\nmodel: {{{', '.join(f'{key}: {value}' for key, value in sizes.items())}}}\n")
    return load_recipe(file)


@pytest.mark.parametrize("measure", ["flops", "params", "state"])
def test_a_match_costs_what_it_says_and_its_neighbours_are_no_nearer(measure: CostMeasure, tmp_path: Path) -> None:
    target = plan(recipe(tmp_path, "[swa:1024, mlstm]*6", "target.yaml", width=192))
    other = recipe(tmp_path, "[sa(kv_heads=2), mlstm(heads=8)]*2")
    best, *others = match(target, other, measure, CASE)
    assert all(abs(best.difference) <= abs(one.difference) for one in others)
    found = {candidate.change: candidate for candidate in (best, *others)}
    assert found.keys() == {"width", "depth", *(["ffn"] if measure != "state" else [])}
    wanted = MEASURES[measure](target, CASE)
    for change, candidate in found.items():
        file = tmp_path / f"{change}.yaml"
        file.write_text(dump(candidate.loaded.recipe))
        assert MEASURES[measure](plan(load_recipe(file)), CASE) == candidate.value
        assert candidate.difference == pytest.approx(float(candidate.value / wanted) - 1)
    width = found["width"].size
    for neighbour in (width - 16, width + 16):
        value = MEASURES[measure](plan(with_width(other, neighbour)), CASE)
        assert abs(value - wanted) >= abs(found["width"].value - wanted)
    mixers = sum(entry.block.is_mixer for entry in plan(found["depth"].loaded).entries)
    assert mixers == 2 * found["depth"].size


def test_a_recipe_matches_itself_as_it_is(tmp_path: Path) -> None:
    other = recipe(tmp_path, "[[mlstm]*3, sa]*2")
    sizes = {found.change: (found.size, found.value) for found in match(plan(other), other, "params", CASE)}
    value = MEASURES["params"](plan(other), CASE)
    assert sizes == {"width": (128, value), "depth": (2, value), "ffn": (sizes["ffn"][0], value)}
    assert "ffn" not in {found.change for found in match(plan(other), recipe(tmp_path, "[sa, ffn]"), "params", CASE)}


def test_steps_make_two_trainings_cost_the_same(tmp_path: Path) -> None:
    """To within half a step, with other sequences and batches, too."""
    target, other = recipe(tmp_path, "[swa:16, mlstm]*2", "target.yaml"), recipe(tmp_path, "sa*3")
    changed = other.recipe.data.model_copy(update={"sequence": 512})
    other = other._replace(recipe=other.recipe.model_copy(update={"data": changed}))
    found = match_steps(target, other)
    whole, token = training_flops(target)
    assert whole == token * 1000 * 8192 and found.change == "steps"
    step = training_flops(other)[1] * other.recipe.train.batch_tokens
    assert abs(found.value - whole) <= step / 2 and found.loaded.recipe.train.steps == found.size


def test_widths_keep_what_every_block_asks_of_them(tmp_path: Path) -> None:
    assert width_step(recipe(tmp_path, "mlstm(heads=8)", heads=4)) == 16, "8 heads of an even width"
    assert width_step(recipe(tmp_path, "[sa(heads=4), mlstm(heads=1)]", heads=2, width=128)) == 8, "even heads"
    assert width_step(recipe(tmp_path, "sa(head=32)")) == 1, "a head of its own width asks nothing"


def test_a_measure_that_one_of_them_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 0 of it"):
        match(plan(recipe(tmp_path, "ffn")), recipe(tmp_path, "sa"), "state", CASE)


@pytest.mark.slow
@given(st.lists(st.integers(0, 5), min_size=1, max_size=50), st.fractions(0, 100))
def test_the_nearest_size_is_the_nearest(steps: list[int], wanted: Fraction) -> None:
    values = [Fraction(sum(steps[: n + 1])) for n in range(len(steps))]
    n = nearest_size(lambda n: values[n - 1], wanted, len(values))
    assert abs(values[n - 1] - wanted) == min(abs(value - wanted) for value in values)
