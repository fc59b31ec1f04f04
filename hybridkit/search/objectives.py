"""The figures that budgets and objectives name: costs as `flops --json` has them, and what runs came to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from statistics import mean, median
from typing import Any

from hybridkit.cost.summary import Question, describe, questions
from hybridkit.model.plan import Plan
from hybridkit.recipe.files import Loaded
from hybridkit.recipe.schema import read_size
from hybridkit.runs.run import Run
from hybridkit.search.trials import is_value

Tree = Mapping[str, Any]

BARE = {"params": "total", "flops_per_token": "forward"}  # what a name that stops at one of these tables means
RECENT = 50  # steps whose mean is the loss of a run
METRICS = ("loss", "val_loss", "val_bits_per_byte", "tokens_per_second", "seconds")
EVAL = "eval."


class UnknownMetric(Exception):
    """No figure has this name; the names that stand nearest, or beside it."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.known = sorted(known)
        super().__init__(name)


class Costs:
    """The costs of a recipe by dotted name, each context computed when it is first asked for.

    Raises UserError for a recipe whose blocks do not fit its sizes.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._question: Question = questions("candidate", loaded)[0]
        self._entries: dict[int, Tree] = {}

    @property
    def plan(self) -> Plan:
        """What the recipe describes."""
        return self._question.plan

    def __call__(self, name: str) -> float:
        """The figure `params`, `flops_per_token.decode` or `state_bytes@131072`; the context is data.sequence else.

        Raises UnknownMetric.
        """
        path, _, at = name.partition("@")
        try:
            context = read_size(at) if at else self._question.case.context
        except ValueError:
            raise UnknownMetric(name, [f"{path}@131072"]) from None
        entry = self._at(context)
        if path == "state_bytes":
            return float(entry[path][str(context)])
        table, _, rest = path.partition(".")
        return look_up(entry, f"{table}.{BARE[table]}" if table in BARE and not rest else path)

    @cached_property
    def names(self) -> list[str]:
        """Every name at the recipe's own context."""
        return [name for name in _names(self._at(self._question.case.context), "") if not name.startswith("layers")]

    def _at(self, context: int) -> Tree:
        if context not in self._entries:
            case = replace(self._question.case, context=context)
            self._entries[context] = describe(self._question._replace(case=case))
        return self._entries[context]


def look_up(tree: Tree, name: str) -> float:
    """The number under a dotted name; a name that stops at a table means the mean of its numbers.

    Raises UnknownMetric, also where one of them has no value: null or NaN.
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


def measure(run: Run) -> dict[str, float]:
    """What the metrics of a run come to; a figure is absent where nothing was counted for it."""
    lines = run.metrics().lines
    steps = [line for line in lines if "loss" in line]
    last: Tree = next((line for line in reversed(lines) if "val_loss" in line), {})
    found = {key: last.get(key) for key in ("val_loss", "val_bits_per_byte")}
    if losses := [line["loss"] for line in steps[-RECENT:] if is_value(line["loss"])]:
        found["loss"] = mean(losses)
    if steps:
        found["tokens_per_second"] = median(line["tokens_per_second"] for line in steps)
        found["seconds"] = sum(line["seconds"] for line in steps)
    return {key: value for key, value in found.items() if is_value(value)}


def evaluation_tree(evaluation: Tree, windows: Sequence[int]) -> dict[str, Any]:
    """The output of `eval --json` on one run, by name: TASK.LENGTH.WINDOW, perplexity.WINDOW and the harness's tasks.

    What was asked without a window stands under each of `windows`, or under `own` where there are none.
    """
    tree: dict[str, Any] = {}
    for cell in evaluation["cells"]:
        table = tree.setdefault(cell["task"], {}).setdefault(str(cell["length"]), {})
        table |= dict.fromkeys(_windows(cell, windows), cell["score"])
    for found in (line for lines in evaluation["perplexity"].values() for line in lines):
        figures = {key: value for key, value in found.items() if key != "window"}
        tree.setdefault("perplexity", {}).update(dict.fromkeys(_windows(found, windows), figures))
    for tasks in evaluation["tasks"].values():
        tree |= tasks
    return tree


def _windows(found: Tree, windows: Sequence[int]) -> list[str]:
    """The names under which a finding stands."""
    if found["window"] is not None:
        return [str(found["window"])]
    return [str(window) for window in windows] or ["own"]


def _leaves(value: Any) -> Iterable[float | None]:
    """The numbers in a table, and None for those without a value."""
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
