"""The metrics that budgets and objectives name: costs, as in `flops --json`, and results of runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from statistics import mean, median
from typing import Any

from hybridkit.cost.flops import Parameters, parameters, total_state_bytes
from hybridkit.cost.summary import CostRequest, cost_entry, cost_requests
from hybridkit.model.plan import Plan
from hybridkit.recipe.files import Loaded
from hybridkit.recipe.schema import read_size
from hybridkit.runs.metrics import recent_loss
from hybridkit.runs.run import Run
from hybridkit.search.trials import is_value

Tree = Mapping[str, Any]

TOTAL = "total"
BARE = {"params": TOTAL, "flops_per_token": "forward"}  # what the name of a table alone means
METRICS = ("loss", "val_loss", "val_bits_per_byte", "tokens_per_second", "seconds")
EVAL = "eval."
POSITION = "loss_by_position"  # eval.loss_by_position.FIRST.WINDOW, of targets with at least FIRST tokens before them


class UnknownMetric(Exception):
    """No metric has this name. `known`: the names in the same table."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.known = sorted(known)
        super().__init__(name)


class Costs:
    """The costs of a recipe by dotted name; a context's costs are computed when first needed.

    Raises UserError for a recipe whose blocks do not fit its sizes.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._request: CostRequest = cost_requests("candidate", loaded)[0]
        self._entries: dict[int, Tree] = {}

    @property
    def plan(self) -> Plan:
        """The compiled recipe."""
        return self._request.plan

    def __call__(self, name: str) -> float:
        """The value of `params`, `flops_per_token.decode` or `state_bytes@131072`; default context: data.sequence.

        Raises UnknownMetric.
        """
        path, _, at = name.partition("@")
        try:
            context = read_size(at) if at else self._request.settings.context
        except ValueError:
            raise UnknownMetric(name, [f"{path}@131072"]) from None
        if path == "state_bytes":
            return float(total_state_bytes(self.plan, replace(self._request.settings, context=context)))
        table, _, rest = path.partition(".")
        rest = rest or BARE.get(table, "")
        if table == "params" and rest in (TOTAL, *Parameters._fields):  # what most budgets ask for
            return float(getattr(self._parameters, rest))
        return look_up(self._at(context), f"{table}.{rest}" if rest else path)

    @cached_property
    def _parameters(self) -> Parameters:
        return parameters(self.plan)

    @cached_property
    def names(self) -> list[str]:
        """All names, at the recipe's own context."""
        return [name for name in _names(self._at(self._request.settings.context), "") if not name.startswith("layers")]

    def _at(self, context: int) -> Tree:
        if context not in self._entries:
            case = replace(self._request.settings, context=context)
            self._entries[context] = cost_entry(self._request._replace(settings=case))
        return self._entries[context]


def look_up(tree: Tree, name: str) -> float:
    """The number with a dotted name; the name of a table means the mean of its numbers.

    Raises UnknownMetric for an unknown name, and where a number is null or not finite.
    """
    value: Any = tree
    for key in name.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise UnknownMetric(name, _names(value, name.rpartition(key)[0]) if isinstance(value, Mapping) else [])
        value = value[key]
    leaves = list(_leaves(value))
    if not leaves or not all(map(is_value, leaves)):
        raise UnknownMetric(name, [])
    return mean(float(leaf) for leaf in leaves if leaf is not None)


def run_metrics(run: Run) -> dict[str, float]:
    """The metrics of a finished run; one without a finite value is absent."""
    lines = run.metrics().lines
    steps = [line for line in lines if "loss" in line]
    last: Tree = next((line for line in reversed(lines) if "val_loss" in line), {})
    found = {key: last.get(key) for key in ("val_loss", "val_bits_per_byte")}
    found["loss"] = recent_loss([line["loss"] for line in steps if is_value(line["loss"])])
    if steps:
        found["tokens_per_second"] = median(line["tokens_per_second"] for line in steps)
        found["seconds"] = sum(line["seconds"] for line in steps)
    return {key: value for key, value in found.items() if is_value(value)}


def evaluation_tree(evaluation: Tree, windows: Sequence[int], run: str = "") -> dict[str, Any]:
    """The output of `eval --json` for the run named `run`: TASK.LENGTH.WINDOW, perplexity.WINDOW, loss_by_position,
    and TASK.METRIC.WINDOW of the harness.

    A result without a window is entered for each of `windows`, or for `own` where there are none. With an ablation,
    `RUN without swa`, the figures are called `TASK without swa`, and those of the harness are left out.
    """
    tree: dict[str, Any] = {}
    for cell in evaluation["cells"]:
        table = tree.setdefault(cell["task"] + _ablation(cell["run"], run), {}).setdefault(str(cell["length"]), {})
        table |= dict.fromkeys(_windows(cell, windows), cell["score"])
    for name, found in ((name, line) for name, lines in evaluation["perplexity"].items() for line in lines):
        metrics = {key: value for key, value in found.items() if key != "window"}
        tree.setdefault("perplexity" + _ablation(name, run), {}).update(
            dict.fromkeys(_windows(found, windows), metrics)
        )
    for found in evaluation.get("by_position", ()):
        table = tree.setdefault(POSITION + _ablation(found["run"], run), {}).setdefault(str(found["first"]), {})
        table |= dict.fromkeys(_windows(found, windows), found["loss"])
    for name, tasks in evaluation["tasks"].items():
        window = name.removeprefix(run).partition(", window ")[2] or None
        for task, metrics in ({} if _ablation(name, run) else tasks).items():
            for metric, value in metrics.items():
                table = tree.setdefault(task, {}).setdefault(metric, {})
                table |= dict.fromkeys(_windows({"window": window}, windows), value)
    return tree


def merged_tables(trees: Iterable[Tree]) -> dict[str, Any]:
    """Several tables as one; of a figure that two of them have, the first is kept."""
    whole: dict[str, Any] = {}
    for tree in trees:
        for key, value in tree.items():
            if isinstance(value, Mapping):
                whole[key] = merged_tables([whole.get(key, {}), value])
            else:
                whole.setdefault(key, value)
    return whole


def _ablation(name: str, run: str) -> str:
    """` without swa` in the name of an ablated run, else nothing."""
    _, word, block = name.removeprefix(run).partition(" without ")
    return word + block.partition(",")[0]


def _windows(found: Tree, windows: Sequence[int]) -> list[str]:
    """The names of the windows of a result."""
    if found["window"] is not None:
        return [str(found["window"])]
    return [str(window) for window in windows] or ["own"]


def _leaves(value: Any) -> Iterable[float | None]:
    """The numbers in a table, with None for null."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _leaves(inner)
    elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        yield value


def _names(value: Any, prefix: str) -> Iterable[str]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _names(inner, f"{prefix}{key}.")
        elif isinstance(inner, int | float):
            yield f"{prefix}{key}"
