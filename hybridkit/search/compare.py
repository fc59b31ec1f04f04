"""Arms of a study against a reference arm (`compare:` of a space file), by pairs of runs with the same seed.

An arm is a value of one variable. Runs that agree in all other variables, `train.seed` aside, are a group; in a group,
the run of an arm and the run of the reference with the same seed are a pair, since both are trained on the same data.
Of the differences of n pairs, with mean m and standard deviation s, the 95 % interval is m ± t s / sqrt(n) with t of
Student's distribution with n - 1 degrees of freedom, and the effect size is m / s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from statistics import mean, stdev
from typing import Any, NamedTuple

from hybridkit.recipe.schema import Scalar
from hybridkit.recipe.train import Until
from hybridkit.search.outcome import read_outcome
from hybridkit.search.reader import StudyReader
from hybridkit.search.schema import SEED, CompareSettings
from hybridkit.search.trials import Trial, half_interval, is_value
from hybridkit.training.callback import Line

LEAST_PAIRS = 3  # below, there is neither an interval nor an effect size


class Question(NamedTuple):
    """A figure that is compared: at the end of each run, or at its first probe that counts as learnt."""

    name: str
    first: bool

    @property
    def title(self) -> str:
        """Its name in tables."""
        return f"{self.name} when first learnt" if self.first else self.name


class Arm(NamedTuple):
    """A value of the compared variable, in the group of runs that agree in all other variables."""

    group: str
    name: str

    @property
    def label(self) -> str:
        """Its name in tables."""
        return f"{self.group}, {self.name}" if self.group else self.name


class ArmRun(NamedTuple):
    """A finished run. `step`: of its first probe that counts as learnt."""

    arm: Arm
    seed: int
    learnt: bool  # at its last probe; true where the study does not say what counts as learnt
    step: int | None
    figures: dict[Question, float]  # those that it has


class Difference(NamedTuple):
    """An arm minus the reference, over pairs of runs."""

    arm: Arm
    question: Question
    only_learnt: bool  # whether only pairs count of which both runs have learnt
    pairs: int
    mean: float
    half: float | None  # of the 95 % interval; None below LEAST_PAIRS, or for equal differences
    effect: float | None
    above: int  # pairs in which the arm has the larger figure


class Comparison(NamedTuple):
    """All runs of a study that are compared, in the order of the space file."""

    settings: CompareSettings
    runs: list[ArmRun]
    trials: dict[Arm, list[int]]  # their trials

    @property
    def questions(self) -> list[Question]:
        """All figures that are compared."""
        return questions(self.settings)

    def of(self, arm: Arm) -> list[ArmRun]:
        """The runs of an arm."""
        return [run for run in self.runs if run.arm == arm]

    def differences(self) -> list[Difference]:
        """Each arm against the reference of its group, figure by figure; those without any pair are left out."""
        kinds = (True, False) if self.settings.learnt else (False,)
        found = [
            self._difference(arm, question, only_learnt)
            for question, only_learnt, arm in product(self.questions, kinds, self.trials)
            if arm.name != str(self.settings.reference)
        ]
        return [difference for difference in found if difference]

    def _difference(self, arm: Arm, question: Question, only_learnt: bool) -> Difference | None:
        other = arm._replace(name=str(self.settings.reference))
        mine, theirs = (
            {run.seed: run.figures[question] for run in self.of(one) if _counts(run, question, only_learnt)}
            for one in (arm, other)
        )
        pairs = [(value, theirs[seed]) for seed, value in mine.items() if seed in theirs]
        if not pairs:
            return None
        gaps = [value - other for value, other in pairs]
        scale = max(abs(value) for pair in pairs for value in pair)
        half = half_interval(gaps, scale) if len(gaps) >= LEAST_PAIRS else None
        effect = mean(gaps) / stdev(gaps) if half else None
        return Difference(arm, question, only_learnt, len(gaps), mean(gaps), half, effect, sum(gap > 0 for gap in gaps))


def questions(settings: CompareSettings) -> list[Question]:
    """All figures that a study compares."""
    return [Question(name, False) for name in settings.at_end] + [Question(name, True) for name in settings.when_learnt]


def comparison(study: StudyReader) -> Comparison | None:
    """The comparison that a study asks for, over its finished runs; None where it asks for none."""
    settings = study.definition.file.compare
    if settings is None:
        return None
    trials: dict[Arm, list[int]] = {}
    runs: list[ArmRun] = []
    for trial in (trial for trial in study.trials() if trial.state == "done"):
        own = [trial.params, *(alias.params for alias in trial.aliases)]
        for params in own:
            arm = _arm(params, settings.variable)
            trials.setdefault(arm, []).append(trial.number)
            runs += _runs(study, trial, arm, int(str(params.get(SEED, study.definition.base.recipe.train.seed))))
    order = {str(value): place for place, value in enumerate(_values(study, settings.variable))}
    arms = sorted(trials, key=lambda arm: (arm.group, order.get(arm.name, len(order))))
    return Comparison(settings, runs, {arm: trials[arm] for arm in arms})


def _values(study: StudyReader, variable: str) -> Sequence[Scalar]:
    return study.definition.space.variables[variable].grid() or []


def _arm(params: Mapping[str, Scalar], variable: str) -> Arm:
    rest = (f"{name} {value}" for name, value in params.items() if name not in (variable, SEED))
    return Arm(", ".join(rest), str(params[variable]))


def _runs(study: StudyReader, trial: Trial, arm: Arm, seed: int) -> Iterator[ArmRun]:
    """The runs of a trial, whose first seed is `seed`."""
    settings = study.definition.file.compare
    assert settings
    outcome = read_outcome(study.trial_folder(trial.number))
    for place, metrics in enumerate(outcome.seeds if outcome else ()):
        lines = study.run(trial, place).metrics().lines
        first = _first(lines, settings.learnt)
        figures = {
            question: value
            for question in questions(settings)
            if is_value(value := _value(question, metrics, lines, first))
        }
        yield ArmRun(arm, seed + place, has_learnt(lines, settings.learnt), first["step"] if first else None, figures)


def has_learnt(lines: Sequence[Line], bound: Until | None) -> bool:
    """Whether the last line with the bound's figure is within it."""
    if bound is None:
        return True
    last: Line = next((line for line in reversed(lines) if bound.metric in line), {})
    return bound.met(last)


def _first(lines: Sequence[Line], bound: Until | None) -> Line | None:
    return next((line for line in lines if bound and bound.met(line)), None)


def _value(question: Question, metrics: Line, lines: Sequence[Line], first: Line | None) -> Any:
    """The value of a figure; None where the run does not report it."""
    from hybridkit.search.objectives import EVAL, METRICS, UnknownMetric, look_up

    if question.first:
        return (first or {}).get(question.name)
    if question.name in METRICS or question.name.startswith(EVAL):
        try:
            return look_up(metrics, question.name)
        except UnknownMetric:
            return None
    return next((line[question.name] for line in reversed(lines) if question.name in line), None)


def _counts(run: ArmRun, question: Question, only_learnt: bool) -> bool:
    return question in run.figures and (run.learnt or not only_learnt)


def comparison_json(found: Comparison) -> dict[str, Any]:
    """The comparison as plain values for JSON."""
    return {
        "variable": found.settings.variable,
        "reference": found.settings.reference,
        "runs": [
            {"group": run.arm.group, "arm": run.arm.name, "seed": run.seed, "learnt": run.learnt, "step": run.step}
            | {"figures": {question.title: value for question, value in run.figures.items()}}
            for run in found.runs
        ],
        "differences": [
            {
                "group": one.arm.group,
                "arm": one.arm.name,
                "figure": one.question.title,
                "only_learnt": one.only_learnt,
                "pairs": one.pairs,
                "mean": one.mean,
                "half_interval": one.half,
                "effect": one.effect,
                "above": one.above,
            }
            for one in found.differences()
        ],
    }
