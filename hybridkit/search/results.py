"""The results of a study, as plain data for tables, pages and JSON."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from hybridkit.recipe.schema import Scalar
from hybridkit.runs.run import Run
from hybridkit.search.outcome import read_outcome
from hybridkit.search.reader import StudyReader
from hybridkit.search.trials import Counts, Trial, is_value, pareto_front, rank
from hybridkit.search.variables import Number

_LENGTH = re.compile("[0-9]{1,18}")
BINS = 4  # with equal numbers of trials, into which numbers are sorted for their importance


class RankedTrial(NamedTuple):
    """A trial in the ranked table: for each objective, its mean over seeds and half the 95 % interval."""

    place: int  # from 1
    trial: Trial
    means: list[float]
    half_intervals: list[float | None]
    on_front: bool  # on the Pareto front


class TrialCurve(NamedTuple):
    """The training loss of one run."""

    trial: int
    seed: int
    steps: list[int]
    losses: list[float]


class Results(NamedTuple):
    """The results of a study."""

    name: str
    objectives: dict[str, str]
    rows: list[RankedTrial]
    importance: list[dict[str, float]]  # for each objective, by variable
    trials: list[Trial]
    counts: Counts
    num_trials: int  # that the study has at its end
    seeds: int

    @property
    def best(self) -> RankedTrial | None:
        """The trial on the front that is best in the first objective."""
        return self.rows[0] if self.rows else None

    @property
    def ended(self) -> int:
        """The number of trials that have ended."""
        return len(self.trials) - self.count("running")

    def count(self, state: str) -> int:
        """The number of trials in a state."""
        return sum(trial.state == state for trial in self.trials)


def results(study: StudyReader) -> Results:
    """The results so far."""
    file, maximized, trials = study.definition.file, study.definition.maximized, study.trials()
    done = [trial for trial in trials if trial.state == "done"]
    values = [trial.means for trial in done]
    on_front = set(pareto_front(values, maximized))
    rows = [
        RankedTrial(place, done[index], done[index].means, done[index].half_intervals, index in on_front)
        for place, index in enumerate(rank(values, maximized), start=1)
    ]
    numbers = {name for name, variable in study.definition.space.variables.items() if isinstance(variable, Number)}
    choices = [(params, trial.means) for trial in done for params in _choices(trial)]
    importance = [
        importances([params for params, _ in choices], [means[place] for _, means in choices], numbers)
        for place in range(len(maximized))
    ]
    name = study.folder.resolve().name
    return Results(
        name,
        dict(file.objectives),
        rows,
        importance,
        trials,
        study.storage.read_counts(),
        study.num_trials,
        file.trial.seeds,
    )


def importances(
    choices: Sequence[Mapping[str, Scalar]], values: Sequence[float], numbers: set[str]
) -> dict[str, float]:
    """The share of the values' variance that each variable explains by itself, between 0 and 1 (eta squared).

    This is the variance of the means of groups, one for each value of the variable; `numbers` are put into bins first.
    It is 0 for a variable with one value, and for all if `values` are equal. With few trials, or with choices that a
    sampler made dependent on each other, it is only a hint.
    """
    total = _variance(values)
    names = choices[0].keys() if choices else ()
    shares = {}
    for name in names:
        column = [choice[name] for choice in choices]
        groups: dict[Scalar, list[float]] = defaultdict(list)
        for label, value in zip(_binned(column) if name in numbers else column, values, strict=True):
            groups[label].append(value)
        means = [fmean(group) for group in groups.values() for _ in group]
        share = _variance(means) / total if total else 0.0
        shares[name] = share if is_value(share) else 0.0
    return shares


def curves(study: StudyReader) -> list[TrialCurve]:
    """The training curves of all runs in the study's folder."""
    found = []
    for trial in study.trials():
        for seed in range(study.definition.file.trial.seeds):
            run = Run(study.trial_folder(trial.number) / f"seed-{seed}")
            lines = [line for line in run.metrics().lines if is_value(line.get("loss"))]
            if lines:
                steps, losses = [line["step"] for line in lines], [line["loss"] for line in lines]
                found.append(TrialCurve(trial.number, seed, steps, losses))
    return found


class Asked(NamedTuple):
    """A task and the window at test time, or `own`."""

    task: str
    window: str

    @property
    def title(self) -> str:
        """Its name in tables."""
        at = "the model's own window" if self.window == "own" else f"test window {self.window}"
        return f"{self.task}, {at}"


TrialScores = dict[Asked, dict[int, dict[str, list[float]]]]  # by trial, then by length or gap, one score for each seed


def trial_scores(study: StudyReader) -> TrialScores:
    """The scores of `eval`."""
    tables: TrialScores = {}
    for trial in study.trials():
        outcome = read_outcome(study.trial_folder(trial.number))
        for metrics in outcome.seeds if outcome else ():
            for asked, length, score in _scores(metrics.get("eval", {})):
                tables.setdefault(asked, {}).setdefault(trial.number, {}).setdefault(length, []).append(score)
    return tables


def _scores(tree: Mapping[str, Any]) -> Iterator[tuple[Asked, str, float]]:
    """Task, window, length and score for each TASK.LENGTH.WINDOW; perplexity and the harness's tasks have no length."""
    for task, table in tree.items() if isinstance(tree, Mapping) else ():
        for length, windows in table.items() if isinstance(table, Mapping) else ():
            if _LENGTH.fullmatch(length) and task != "perplexity" and isinstance(windows, Mapping):
                for window, score in windows.items():
                    if is_value(score) and (window == "own" or _LENGTH.fullmatch(window)):
                        yield Asked(task, window), length, score


def results_json(found: Results) -> dict[str, Any]:
    """The results as plain values for JSON."""
    return {
        "study": found.name,
        "objectives": found.objectives,
        "trials": {state: found.count(state) for state in ("done", "pruned", "failed", "running")},
        "rejected": found.counts.rejected,
        "duplicates": found.counts.duplicates,
        "importance": dict(zip(found.objectives, found.importance, strict=True)),
        "ranked": [
            {
                "trial": row.trial.number,
                "front": row.on_front,
                "pattern": row.trial.pattern,
                "params": row.trial.params,
                "objectives": {
                    name: {
                        "mean": mean,
                        "half_interval": spread,
                        "seeds": [values[place] for values in row.trial.values],
                    }
                    for place, (name, mean, spread) in enumerate(
                        zip(found.objectives, row.means, row.half_intervals, strict=True)
                    )
                },
            }
            for row in found.rows
        ],
    }


def _choices(trial: Trial) -> list[dict[str, Scalar]]:
    return [trial.params, *(alias.params for alias in trial.aliases)]


def _binned(column: Sequence[Any]) -> list[Scalar]:
    """The bin of each number."""
    order = sorted(column)
    return [order.index(number) * BINS // len(order) for number in column]


def _variance(values: Sequence[float]) -> float:
    try:
        middle = fmean(values) if values else 0.0
        return sum((value - middle) ** 2 for value in values)
    except OverflowError:  # the square of a large value is infinite
        return math.inf
