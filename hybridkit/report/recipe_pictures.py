"""Pictures that are asked for by a recipe or a run: their figures are computed, then drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hybridkit.cost.summary import cost_entry, cost_requests
from hybridkit.recipe.files import Loaded
from hybridkit.report.stack_plot import draw_stack

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def stack_picture(loaded: Loaded, name: str = "") -> Figure:
    """The picture of a recipe's stack, at `data.sequence` tokens; `name` stands above, by default the file's."""
    context = loaded.recipe.data.sequence
    near, far = cost_requests(name or str(loaded.path), loaded, [context, 2 * context])
    costs, later = cost_entry(near), cost_entry(far)
    costs["layers"] = [_seeing(*pair) for pair in zip(costs["layers"], later["layers"], strict=True)]
    return draw_stack(near.name, near.plan, costs, loaded.recipe.train.seed, loaded.recipe.train.steps)


def _seeing(layer: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """The layer, and whether it keeps all tokens: its state still grows at the end of a sequence."""
    pairs = zip(layer.get("branches", []), later.get("branches", []), strict=True)
    branches = {"branches": [_seeing(*pair) for pair in pairs]} if "branches" in layer else {}
    grows = layer["window"] is None and later["state_bytes"] > layer["state_bytes"]
    return {**layer, "sees_all": grows, **branches}
