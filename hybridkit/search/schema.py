"""The keys of a space file and their values; `space:`, `patterns:` and `budget:` are read elsewhere."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, field_validator, model_validator

from hybridkit.recipe.choices import choice
from hybridkit.recipe.schema import Scalar, Section, Size
from hybridkit.recipe.train import Until
from hybridkit.registry.kinds import Kind
from hybridkit.registry.registry import REGISTRY
from hybridkit.search.arguments import evaluation_texts, read_arguments

SAMPLER = Kind("sampler", "hybridkit.search.samplers")
PRUNER = Kind("pruner", "hybridkit.search.pruners")
SEED = "train.seed"  # as a variable of a space, it numbers the runs of an arm
Aim = Literal["min", "max"]
MatchMeasure = Literal["params", "flops", "state"]


class TrialSettings(Section):
    """How a candidate is trained and evaluated."""

    steps: int | None = Field(default=None, ge=1, description="Optimizer steps; default: the recipe's.")
    tokens: Size | None = Field(default=None, ge=1, description="Instead of steps; rounded up to whole batches.")
    flops: float | None = Field(
        default=None,
        gt=0,
        description="Instead of steps: FLOPs of training, at the windows of each schedule.",
    )
    seeds: int = Field(default=1, ge=1, le=64, description="Runs per candidate, at train.seed, train.seed + 1, ...")
    model: dict[str, JsonValue] = Field(default={}, description="Changes to the recipe's model.")
    data: dict[str, JsonValue] = Field(default={}, description="Changes to the recipe's data.")
    train: dict[str, JsonValue] = Field(default={}, description="Changes to the recipe's train.")
    evaluate: str | list[str] | None = Field(
        default=None,
        description="Arguments of `hybridkit eval` for each trained model, or a list of several; null: no evaluation.",
    )
    windows: list[Annotated[int, Field(ge=1, le=1 << 40)]] = Field(
        default=[],
        max_length=64,
        description="Windows at test time; a model without windows has the same results at all of them.",
    )

    @field_validator("evaluate")
    @classmethod
    def _only_allowed_arguments(cls, evaluate: str | list[str] | None) -> str | list[str] | None:
        for text in evaluation_texts(evaluate):
            read_arguments(text)
        return evaluate

    @property
    def questions(self) -> tuple[str, ...]:
        """The arguments of each evaluation."""
        return evaluation_texts(self.evaluate)


def _pruner(said: Any) -> str | dict[str, Any]:
    """As `choice`; older files name it by `kind`, or leave the name out."""
    if isinstance(said, dict) and "name" not in said:
        said = {"name": said.get("kind", "halving"), **{key: value for key, value in said.items() if key != "kind"}}
    return choice(PRUNER, said, REGISTRY)


class MatchSettings(Section):
    """The cost that every candidate gets by the choice of its width."""

    measure: MatchMeasure = Field(description="params, flops (of a training token) or state (bytes at data.sequence).")
    recipe: str | None = Field(default=None, description="The recipe whose cost this is; default: the base.")


class CompareSettings(Section):
    """Which arms are compared, with which, and by what."""

    variable: str = Field(default="pattern", description="The variable whose values are the arms.")
    reference: Scalar = Field(description="The arm that all others are compared with.")
    learnt: Until | None = Field(
        default=None, description="What counts as learnt: `{metric: recall_near, at_least: .95}`; null: every run."
    )
    at_end: list[str] = Field(default=[], description="Figures that are compared at the end of each run.")
    when_learnt: list[str] = Field(default=[], description="Figures of the first probe that counts as learnt.")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.when_learnt and not self.learnt:
            raise ValueError("when_learnt needs learnt: {metric: recall_near, at_least: .95}")
        if not self.at_end and not self.when_learnt:
            raise ValueError("should name figures, as in at_end: [val_loss]")
        return self


class StudyFile(Section):
    """A space file."""

    extends: str = Field(min_length=1, description="The base recipe: a path relative to this file, or a shipped name.")
    space: dict[str, Any] | None = Field(default=None, description="What varies (docs/search.md).")
    patterns: dict[str, Any] | None = Field(default=None, description="Named patterns, one of which is chosen.")
    budget: list[Any] | dict[str, Any] | str | None = Field(default=None, description="Limits of cost.")
    match: MatchSettings | MatchMeasure | None = Field(default=None, description="The cost of every candidate.")
    objectives: dict[str, Aim] = Field(default={"val_loss": "min"}, min_length=1, description="Metrics to optimize.")
    trial: TrialSettings = Field(default=TrialSettings(), description="How a candidate is trained and evaluated.")
    trials: int = Field(
        default=40, ge=1, le=100_000, description="Candidates to train; a grid trains all of its points."
    )
    sampler: str = Field(default="tpe", description="How candidates are proposed.")
    seed: int = Field(default=0, ge=0, lt=1 << 31, description="Of the sampler.")
    compare: CompareSettings | None = Field(default=None, description="Arms to compare, by pairs of runs.")
    pruner: Annotated[str | dict[str, JsonValue], BeforeValidator(_pruner)] | None = Field(
        default=None, description="Which trials stop early: `halving`, or `{name: halving, factor: 2}`; null: none."
    )

    @field_validator("sampler")
    @classmethod
    def _known_sampler(cls, sampler: str) -> str:
        known = REGISTRY.names(SAMPLER)
        if sampler not in known:
            raise ValueError(f"should be {', '.join(map(repr, known[:-1]))} or {known[-1]!r}")
        return sampler
