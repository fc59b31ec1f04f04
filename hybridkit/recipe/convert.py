"""The section `convert` of a recipe: how a trained model becomes the recipe's, stage by stage (docs/convert.md)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, ValidationInfo, model_validator

from hybridkit.recipe.choices import SCHEDULE, choice
from hybridkit.recipe.presets import PRESETS
from hybridkit.recipe.probe import Names, Sizes
from hybridkit.recipe.section import MOST, Misfit, Section, Share, Size, Switch
from hybridkit.recipe.train import MinLr, Train, schedule_falls
from hybridkit.system.choices import Scoring
from hybridkit.system.errors import nearest

LOSSES = ("hidden", "kl", "ce")
MIXED = ("kl", "ce")  # those that a stage may add up


def _preset(name: str) -> str:
    if name not in PRESETS:
        hint = f"; did you mean {near}?" if (near := nearest(name, PRESETS)) else ""
        raise ValueError(f"should name a preset ({', '.join(PRESETS)}{hint})")
    return name


def _name(said: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,31}", said, re.ASCII):
        raise ValueError("should be a letter and up to 31 letters, digits or dashes, all lower case")
    return said


def _keep(said: Any) -> list[int] | str:
    if isinstance(said, list) and all(type(one) is int and one >= 0 for one in said):
        return said
    if isinstance(said, str) and re.fullmatch(r"(last|auto) [1-9][0-9]{0,5}", said, re.ASCII):
        return said
    raise ValueError("should be a list of mixers' numbers, from 0 on, or `last N`, or `auto N`")


def _window(said: Any) -> Any:
    """A policy as text; YAML reads that of one fixed window as a number."""
    return str(said) if type(said) is int else said


def _schedule(said: Any, info: ValidationInfo) -> Any:
    """As `train.schedule`. Without a context a stage is read again (`Convert.all_stages`), and was checked before."""
    return choice(SCHEDULE, said, info.context["registry"]) if info.context else said


def _loss(said: Any) -> dict[str, float]:
    """A loss by name, or several with their factors."""
    found = {said: 1.0} if isinstance(said, str) else said
    if not isinstance(found, dict) or not found:
        raise ValueError(f"should be one of {', '.join(LOSSES)}, or a sum such as {{ce: .9, kl: .1}}")
    for name, factor in found.items():
        if name not in LOSSES:
            near = nearest(str(name), LOSSES)
            raise ValueError(f"{name}: no such loss{f'; did you mean {near}?' if near else ''}: {', '.join(LOSSES)}")
        if len(found) > 1 and name not in MIXED:
            raise ValueError(f"{name} does not add up with others, since it runs the new mixers alone")
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < float("inf"):
            raise ValueError(f"{name}: the factor should be a number above 0")
    return {name: float(factor) for name, factor in found.items()}


class Stage(Section):
    """One stage. Where a field is not given, the preset's is meant, or else that of `train` and `data`."""

    name: Annotated[str, AfterValidator(_name)] | None = None  # in the name of its folder
    steps: int | None = Field(default=None, ge=0, le=MOST)  # 0: the stage is left out
    sequence: Size | None = Field(default=None, ge=1, le=1 << 30)
    batch_tokens: Size | None = Field(default=None, ge=1, le=1 << 40)
    lr: float | None = Field(default=None, gt=0)
    min_lr: MinLr | None = None
    warmup: Share | None = None
    schedule: Annotated[str | dict[str, JsonValue], BeforeValidator(_schedule)] | None = None
    weight_decay: float | None = Field(default=None, ge=0)
    loss: Annotated[dict[str, float], BeforeValidator(_loss)] | None = None
    train: Literal["new", "mixers", "all"] | None = None  # None: new mixers under the loss `hidden`, else all
    top_k: int | None = Field(default=None, ge=1, le=1 << 24)  # of the teacher's logits; None: all of them
    cache: Switch | None = None  # whether they are kept on the disk
    # A window policy for all blocks that have one; None: their own.
    window: Annotated[str, BeforeValidator(_window), Field(min_length=1)] | None = None

    @property
    def trains(self) -> str:
        """Which weights it trains."""
        return self.train or ("new" if self.losses == {"hidden": 1.0} else "all")

    @property
    def losses(self) -> Mapping[str, float]:
        """Its losses and their factors."""
        assert self.loss
        return self.loss

    @property
    def title(self) -> str:
        """Its name, or those of its losses."""
        return self.name or "-".join(self.losses)

    def problem(self) -> tuple[str, str] | None:
        """What is wrong with the whole of it, if anything: the field, and what it should be."""
        if self.loss is None:
            return "loss", f"is missing: one of {', '.join(LOSSES)}, or a sum such as {{ce: .9, kl: .1}}"
        if "hidden" in self.loss and self.train not in (None, "new"):
            return "train", f"should be `new` or left out, not `{self.train}`: the loss hidden reaches no other weights"
        if self.top_k and "kl" not in self.loss:
            return "top_k", "is of the loss kl, which this stage does not have"
        if self.cache and not self.top_k:
            return "cache", "needs top_k: all logits of the teacher would fill the disk"
        return None


class Evaluation(Section):
    """What is measured of the teacher and after every stage, beside perplexity, state and speed."""

    needles: Names | None = None  # tasks of RULER
    lengths: Sizes | None = None  # of their prompts
    recall: Sizes | None = None  # gaps, of models that are trained on `recall(...)`
    windows: Sizes | None = None  # at test time; None: each block's largest
    samples: int = Field(default=100, ge=1, le=1 << 16)
    score: Scoring = "ruler"
    context: Size | None = Field(default=None, ge=1, le=1 << 30)  # of the loss by position; None: 16 sequences
    decode: int = Field(default=64, ge=1, le=1 << 20)  # tokens whose decoding is timed

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.needles is None) != (self.lengths is None):
            raise ValueError("needles and lengths belong together: {needles: niah_single_1, lengths: 1k}")
        return self


class Convert(Section):
    """How `hybridkit convert` makes a trained model the recipe's."""

    preset: Annotated[str, AfterValidator(_preset)] | None = None
    keep: Annotated[list[int] | str, BeforeValidator(_keep)] | None = None
    stages: list[Stage] = Field(default=[])  # by place: what they change of the preset's, or whole stages
    evaluate: Evaluation = Evaluation()

    @property
    def all_stages(self) -> list[tuple[int, Stage]]:
        """The stages to be done, each with its place, from 0."""
        preset: Sequence[Mapping[str, Any]] = PRESETS[self.preset] if self.preset else ()
        said = [{name: value for name, value in stage if value is not None} for stage in self.stages]
        made = [Stage.model_validate({**(given or {}), **(own or {})}) for given, own in zip_longest(preset, said)]
        return [(at, stage) for at, stage in enumerate(made) if stage.steps != 0]

    def check(self, train: Train, sequence: int) -> None:
        """Raises Misfit for a stage that cannot be trained with such a `train` section and `data.sequence`."""
        if not self.all_stages:
            message = f"convert has no stage: name a preset ({', '.join(PRESETS)}), or give `stages`"
            raise Misfit(message, ("convert", "stages"), ("convert",))
        for at, stage in self.all_stages:
            if found := stage.problem():
                field, said = found
                raise Misfit(f"convert.stages.{at}.{field} {said}", *_places(at, field))
            tokens, length = stage.batch_tokens or train.batch_tokens, stage.sequence or sequence
            if tokens % length:
                raise Misfit(
                    f"convert.stages.{at}: batch_tokens should be a multiple of sequence, {length}, not {tokens}",
                    *_places(at, "sequence"),
                    *_places(at, "batch_tokens"),
                )
            stage_train(stage, train, at)


def _places(at: int, field: str) -> list[tuple[str | int, ...]]:
    return [("convert", "stages", at, field), ("convert", "stages", at)]


def stage_train(stage: Stage, train: Train, at: int) -> dict[str, Any]:
    """What a stage changes of the section `train`. Without its own, `min_lr` is the same share of `lr` as there.

    Raises Misfit where the rate would rise.
    """
    fields = ("steps", "batch_tokens", "lr", "min_lr", "warmup", "schedule", "weight_decay")
    found = {name: value for name in fields if (value := getattr(stage, name)) is not None}
    if "lr" in found and "min_lr" not in found:
        found["min_lr"] = found["lr"] * train.last_lr / train.lr
    changed = train.model_copy(update=found)
    if changed.last_lr > changed.lr and schedule_falls(changed.schedule):
        message = f"convert.stages.{at}: min_lr should be at most lr, {changed.lr:g}, not {changed.last_lr:g}"
        raise Misfit(message, *_places(at, "min_lr"), *_places(at, "lr"))
    return found
