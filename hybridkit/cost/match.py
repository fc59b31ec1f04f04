"""Iso-cost baselines: which width, depth, FFN or number of steps makes one recipe cost what another does."""

from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from functools import partial
from typing import Any, Literal, NamedTuple

from hybridkit.cost.flops import CostSettings, cost, parameters, total_state_bytes
from hybridkit.language.parser import MAX_ENTRIES
from hybridkit.language.printer import canonical, period
from hybridkit.model.loading import plan
from hybridkit.model.plan import Plan
from hybridkit.recipe.files import Loaded
from hybridkit.recipe.section import MOST
from hybridkit.system.errors import UserError

CostMeasure = Literal["flops", "params", "state"]
Resize = Literal["width", "depth", "ffn", "steps"]
MEASURES: dict[CostMeasure, Callable[[Plan, CostSettings], Fraction]] = {
    "flops": lambda plan, settings: cost(plan, settings).training,
    "params": lambda plan, settings: Fraction(parameters(plan).total),
    "state": lambda plan, settings: Fraction(total_state_bytes(plan, settings)),
}
MAX_WIDTH = 1 << 20  # as a recipe may say
FFN_STEP = 8  # of an FFN's width
_SIZES: dict[Resize, str] = {
    "width": "width {}", "depth": "its unit {} times", "ffn": "FFNs of width {}", "steps": "{} steps",
}  # fmt: skip


class Match(NamedTuple):
    """A recipe changed in one size so that it costs nearly as much as the target."""

    change: Resize
    size: int  # what `resize` names: a width, an FFN's width, how often the smallest unit repeats, or steps
    value: Fraction
    target: Fraction
    loaded: Loaded

    @property
    def difference(self) -> float:
        """How far off, as a share of the target."""
        return float(self.value / self.target - 1)

    def __str__(self) -> str:
        return f"{_SIZES[self.change].format(self.size)}: {float(self.value):.6g}, {self.difference:+.2%}"

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        recipe = self.loaded.recipe.model_dump(mode="json", by_alias=True)
        figures = {"value": float(self.value), "target": float(self.target), "difference": self.difference}
        return {"change": self.change, "size": self.size, **figures, "recipe": recipe}


def match(target: Plan, other: Loaded, measure: CostMeasure, settings: CostSettings) -> list[Match]:
    """The nearest width, depth and, where FFNs are added to the pattern, width of these; the best of them first.

    Raises UserError where no size of it comes to what `target` has.
    """
    wanted, own = (MEASURES[measure](described, settings) for described in (target, plan(other)))
    if not (wanted and own):
        raise UserError(f"--match {measure}: one of the recipes has 0 of it, so that no size of the other has as much")
    said = list(map(str, plan(other).written))
    unit = said[: period(said)]

    def nearest(change: Resize, resize: Callable[[int], Loaded], scale: int, most: int) -> Match:
        n = nearest_size(lambda n: MEASURES[measure](plan(resize(n * scale)), settings), wanted, most)
        built = resize(n * scale)
        return Match(change, n * scale, MEASURES[measure](plan(built), settings), wanted, built)

    found = [nearest("depth", lambda n: with_pattern(other, canonical(list(unit) * n)), 1, MAX_ENTRIES // len(unit))]
    with suppress(UserError):  # of blocks that cannot have such widths; the depth remains
        step = width_step(other)
        found.insert(0, nearest("width", partial(with_width, other), step, MAX_WIDTH // step))
    if measure != "state" and _sizes_ffns(other):
        found.append(nearest("ffn", partial(with_ffn, other), FFN_STEP, MAX_WIDTH // FFN_STEP))
    return sorted(found, key=lambda candidate: abs(candidate.difference))


def match_steps(target: Loaded, other: Loaded) -> Match:
    """`other` with the number of steps with which its training costs as many FLOPs as that of `target`.

    Raises UserError where a recipe cannot have so many steps.
    """
    wanted, (own, _) = (training_flops(target)[0], training_flops(other))
    steps = max(1, round(wanted / own * other.recipe.train.steps))
    if steps > MOST:
        raise UserError(f"--match training: {steps:,} steps are more than the {MOST:,} that a recipe may have")
    train = other.recipe.train.model_copy(update={"steps": steps})
    built = other._replace(recipe=other.recipe.model_copy(update={"train": train}))
    return Match("steps", steps, training_flops(built)[0], wanted, built)


def training_flops(loaded: Loaded) -> tuple[Fraction, Fraction]:
    """FLOPs of a whole run, expected over windows, and those of one token of it; at its own length of sequences."""
    recipe = loaded.recipe
    token = cost(plan(loaded), CostSettings(recipe.data.sequence)).training
    return token * recipe.train.steps * recipe.train.batch_tokens, token


def nearest_size(measure: Callable[[int], Fraction], wanted: Fraction, most: int) -> int:
    """The n of 1 ... most whose measure, which never falls with n, comes nearest to what is wanted."""
    above = 1 + bisect_left(range(1, most + 1), wanted, key=measure)
    return min((n for n in (above - 1, above) if 1 <= n <= most), key=lambda n: abs(measure(n) - wanted))


def width_step(loaded: Loaded) -> int:
    """The least change of width that all blocks can be built with. Raises UserError where there is none.

    Blocks ask that certain numbers divide the width, and these divide the recipe's own width. So the widths that fit
    are the multiples of the least number that can be added to it.
    """
    width = loaded.recipe.model.width
    for step in range(1, width + 1):
        if width % step == 0 and _fits(with_width(loaded, width + step)):
            return step
    raise UserError(f"{loaded.path}: its blocks can have no width of a little more than {width:,}")


def with_width(loaded: Loaded, width: int) -> Loaded:
    """The recipe with another width of the residual stream."""
    model = loaded.recipe.model.model_copy(update={"width": width})
    return loaded._replace(recipe=loaded.recipe.model_copy(update={"model": model}))


def with_ffn(loaded: Loaded, width: int) -> Loaded:
    """The recipe with FFNs of another width after its mixers."""
    model = loaded.recipe.model
    changed = model.model_copy(update={"ffn": {**(model.ffn or {}), "width": width}})
    return loaded._replace(recipe=loaded.recipe.model_copy(update={"model": changed}))


def _sizes_ffns(loaded: Loaded) -> bool:
    """Whether blocks with a width are added to the pattern."""
    described, ffn = plan(loaded), loaded.recipe.model.ffn
    added = described.entries != described.written
    return added and "width" in type(described.entries[1].block).model_fields and ffn is not None


def with_pattern(loaded: Loaded, pattern: str) -> Loaded:
    """The recipe with another pattern, which its file does not hold."""
    return loaded._replace(recipe=loaded.recipe.model_copy(update={"pattern": pattern}), source=None)


def _fits(loaded: Loaded) -> bool:
    try:
        plan(loaded)
    except UserError:
        return False
    return True
