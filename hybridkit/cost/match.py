"""Iso-cost baselines: which width or depth makes one recipe cost what another does."""

from bisect import bisect_left
from collections.abc import Callable
from fractions import Fraction
from itertools import count
from typing import Any, Literal, NamedTuple

from hybridkit.cost.flops import CostSettings, cost, parameters, total_state_bytes
from hybridkit.language.parser import MAX_ENTRIES
from hybridkit.language.printer import canonical, period
from hybridkit.model.loading import plan
from hybridkit.model.plan import Plan
from hybridkit.recipe.files import Loaded
from hybridkit.system.errors import UserError

CostMeasure = Literal["flops", "params", "state"]
Resize = Literal["width", "depth"]
MEASURES: dict[CostMeasure, Callable[[Plan, CostSettings], Fraction]] = {
    "flops": lambda plan, settings: cost(plan, settings).training,
    "params": lambda plan, settings: Fraction(parameters(plan).total),
    "state": lambda plan, settings: Fraction(total_state_bytes(plan, settings)),
}
MAX_WIDTH = 1 << 20  # as a recipe may say


class Match(NamedTuple):
    """A recipe changed in its width or depth so that it costs nearly as much as the target."""

    change: Resize
    size: int  # of the residual stream; or repeats of the pattern's smallest unit
    value: Fraction
    target: Fraction
    loaded: Loaded

    @property
    def difference(self) -> float:
        """How far off, as a share of the target."""
        return float(self.value / self.target - 1)

    def __str__(self) -> str:
        size = f"width {self.size}" if self.change == "width" else f"its unit {self.size} times"
        return f"{size}: {float(self.value):.6g}, {self.difference:+.2%}"

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        recipe = self.loaded.recipe.model_dump(mode="json", by_alias=True)
        figures = {"value": float(self.value), "target": float(self.target), "difference": self.difference}
        return {"change": self.change, "size": self.size, **figures, "recipe": recipe}


def match(target: Plan, other: Loaded, measure: CostMeasure, settings: CostSettings) -> list[Match]:
    """The nearest width and the nearest depth of `other`, the better of the two first.

    Raises UserError where no size of it comes to what `target` has.
    """
    wanted, own = (MEASURES[measure](described, settings) for described in (target, plan(other)))
    if not (wanted and own):
        raise UserError(f"--match {measure}: both recipes must have some, and one has none")
    said = list(map(str, plan(other).written))
    step, unit = width_step(other), said[: period(said)]

    def resize(change: Resize, n: int) -> Loaded:
        return with_width(other, n * step) if change == "width" else with_pattern(other, canonical(list(unit) * n))

    def nearest(change: Resize, scale: int, most: int) -> Match:
        n = nearest_size(lambda n: MEASURES[measure](plan(resize(change, n)), settings), wanted, most)
        built = resize(change, n)
        return Match(change, n * scale, MEASURES[measure](plan(built), settings), wanted, built)

    found = [nearest("width", step, MAX_WIDTH // step), nearest("depth", 1, MAX_ENTRIES // len(unit))]
    return sorted(found, key=lambda candidate: abs(candidate.difference))


def nearest_size(measure: Callable[[int], Fraction], wanted: Fraction, most: int) -> int:
    """The n of 1 ... most whose measure, which never falls with n, comes nearest to what is wanted."""
    above = 1 + bisect_left(range(1, most + 1), wanted, key=measure)
    return min((n for n in (above - 1, above) if 1 <= n <= most), key=lambda n: abs(measure(n) - wanted))


def width_step(loaded: Loaded) -> int:
    """The least change of width that all blocks can be built with.

    Blocks ask that certain numbers divide the width, and these divide the recipe's own width. So the widths that fit
    are the multiples of the least number that can be added to it.
    """
    width = loaded.recipe.model.width
    return next(step for step in count(1) if width % step == 0 and _fits(with_width(loaded, width + step)))


def with_width(loaded: Loaded, width: int) -> Loaded:
    """The recipe with another width of the residual stream."""
    model = loaded.recipe.model.model_copy(update={"width": width})
    return loaded._replace(recipe=loaded.recipe.model_copy(update={"model": model}))


def with_pattern(loaded: Loaded, pattern: str) -> Loaded:
    """The recipe with another pattern, which its file does not hold."""
    return loaded._replace(recipe=loaded.recipe.model_copy(update={"pattern": pattern}), source=None)


def _fits(loaded: Loaded) -> bool:
    try:
        plan(loaded)
    except UserError:
        return False
    return True
