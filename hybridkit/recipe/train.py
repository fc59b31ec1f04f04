"""The section `train` of a recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from hybridkit.recipe.choices import ENGINE, LOGGER, OPTIMIZER, SCHEDULE, check_choice, choice, chosen, engine_fields
from hybridkit.recipe.probe import Probe
from hybridkit.recipe.section import FIXED, MOST, Misfit, Section, Share, Size, Switch
from hybridkit.registry.registry import REGISTRY, Registry
from hybridkit.system.choices import DeviceChoice, PrecisionChoice


def _registry(info: ValidationInfo) -> Registry:
    """What the recipe may name: `context={"registry": ...}` of `model_validate`."""
    return (info.context or {}).get("registry", REGISTRY)


def _engine(name: str, info: ValidationInfo) -> str:
    return check_choice(ENGINE, name, _registry(info))


def _share_of_lr(said: Any) -> Any:
    if isinstance(said, str) and not re.fullmatch(r"([0-9]+(\.[0-9]*)?|\.[0-9]+)%", said, re.ASCII):
        raise ValueError("should be a number, or a share of train.lr such as 10%")
    return said


MinLr = Annotated[Annotated[float, Field(ge=0)] | str, BeforeValidator(_share_of_lr)]


def _freeze(said: dict[str, int | float]) -> dict[str, int | float]:
    for key, until in said.items():
        if isinstance(until, float) and until == 1:
            raise ValueError(f"{key}: 1.0 may mean one step or the whole run; write 1, or the number of steps")
        if until < 0 or (until >= 1 and until != int(until)):
            raise ValueError(f"{key}: should be a fraction of the run below 1, or a whole number of steps, not {until}")
    return said


def _optimizer(said: Any, info: ValidationInfo) -> str | dict[str, Any]:
    return choice(OPTIMIZER, said, _registry(info))


def _schedule(said: Any, info: ValidationInfo) -> str | dict[str, Any]:
    return choice(SCHEDULE, said, _registry(info))


def _loggers(said: Any, info: ValidationInfo) -> list[str | dict[str, Any]]:
    return [choice(LOGGER, one, _registry(info)) for one in (said if isinstance(said, list) else [said])]


SMALLER = ("loss", "bits", "perplexity")  # in names of figures that are better when smaller


def better(metric: str, value: float, than: float) -> bool:
    """Whether a figure is better: losses, bits and perplexities when smaller, all others when larger."""
    return value < than if any(word in metric for word in SMALLER) else value > than


def schedule_falls(said: str | Mapping[str, Any], registry: Registry = REGISTRY) -> bool:
    """Whether a schedule's last rate is another than its first, so that `min_lr` counts."""
    name, fields = chosen(said)
    return bool(registry.get(SCHEDULE, name)(**fields).remaining(1.0) < 1)


class Until(Section):
    """A figure of a validation or a probe, and the bound at which training may stop."""

    metric: str = Field(min_length=1)
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("should have one bound, as in {metric: val_loss, at_most: 1.5}")
        return self

    def met(self, line: Mapping[str, Any]) -> bool:
        """Whether a metrics line has the figure within the bound."""
        value = line.get(self.metric)
        if not isinstance(value, int | float):
            return False
        return value >= self.at_least if self.at_least is not None else value <= self.at_most  # type: ignore[operator]


def _which(said: Any) -> int | str | None:
    if said in (None, "newest"):
        return None
    if said == "best" or (type(said) is int and said >= 0):
        return said
    raise ValueError("should be a step, `best` or `newest`")


class FromRun(Section):
    """A run whose weights to start from, and its checkpoint: a step, `best`, or the newest one (None).

    Of the newest one a recipe says the folder alone.
    """

    run: str = Field(min_length=1)
    checkpoint: Annotated[int | str | None, BeforeValidator(_which)] = None

    def __str__(self) -> str:
        return self.run if self.checkpoint is None else f"{{run: {self.run}, checkpoint: {self.checkpoint}}}"

    @model_serializer
    def _short(self) -> Any:
        return self.run if self.checkpoint is None else {"run": self.run, "checkpoint": self.checkpoint}


def _from_run(said: Any) -> Any:
    if isinstance(said, str) and said:
        return {"run": said}
    if not isinstance(said, dict | FromRun):
        raise ValueError("should be the folder of a run, or {run: ..., checkpoint: best}")
    return said


class Train(Section):
    """How it is trained. Beside the fields here it holds those that engines declare (`choices.engine_fields`)."""

    model_config = ConfigDict(extra="allow")

    steps: int = Field(default=1000, ge=1, le=MOST, description="Optimizer steps.")
    batch_tokens: Size = Field(
        default=8192, ge=1, le=1 << 40, json_schema_extra=FIXED,
        description="Tokens of an optimizer step over all ranks, a multiple of data.sequence; k and M allowed.",
    )  # fmt: skip
    micro_batch: Literal["auto"] | Annotated[int, Field(ge=1, le=MOST)] = Field(
        default="auto", description="Sequences of one forward pass on one rank."
    )
    lr: float = Field(default=1e-3, gt=0, description="Peak learning rate.")
    min_lr: MinLr = Field(default=1e-4, description="Last learning rate, or a share of lr such as `10%`; at most lr.")
    warmup: Share = Field(default=0.01, description="Share of the steps in which the rate rises.")
    schedule: Annotated[str | dict[str, JsonValue], BeforeValidator(_schedule)] = Field(
        default="cosine",
        description="How the rate falls: along a cosine (`cosine`), in the last fifth of the steps after "
        "warmup (`wsd`, or another share: `{name: wsd, decay: .1}`), or not at all (`constant`).",
    )
    weight_decay: float = Field(default=0.1, ge=0, description="AdamW's; none on norms, biases and gates.")
    betas: Annotated[tuple[Share, Share], Field(strict=False)] = Field(default=(0.9, 0.95), description="AdamW's.")
    clip: float | None = Field(default=1.0, gt=0, description="Largest norm of the gradient; null: no clipping.")
    z_loss: float = Field(
        default=0.0, ge=0, description="Factor of the squared log of the softmax's sum, added to what is minimized."
    )
    ema: float | None = Field(
        default=None, gt=0, lt=1, json_schema_extra=FIXED,
        description="Decay of a running mean of the weights, which is validated and kept beside them; null: none.",
    )  # fmt: skip
    freeze: Annotated[dict[str, int | float], AfterValidator(_freeze)] = Field(
        default={}, json_schema_extra=FIXED,
        description="Blocks, entries by number, `embedding`, `norm` or `head`, and the step (or the fraction of the "
        "run) before which they do not change: `{mlstm: .1}`.",
    )  # fmt: skip
    seed: int = Field(
        default=0, ge=0, lt=1 << 63, json_schema_extra=FIXED, description="Of initial weights, data order and windows."
    )
    optimizer: Annotated[str | dict[str, JsonValue], BeforeValidator(_optimizer)] = Field(
        default="adamw", description="An optimizer, or `{name: ..., field: ...}` with fields of its own."
    )
    engine: Annotated[str, AfterValidator(_engine)] = Field(
        default="local", description="`local`: plain torch in one process; `deepspeed`: DeepSpeed, on several ranks."
    )
    precision: PrecisionChoice = Field(
        default="auto", description="Of the arithmetic; auto: bf16 where the machine computes in it, else fp32."
    )
    device: DeviceChoice = Field(default="auto", description="auto: cuda where there is one.")
    compile: Literal["auto"] | Switch = Field(
        default="auto", description="Whether torch.compile is used; auto: on a GPU, where weights stay on one rank."
    )
    recompute: Switch = Field(default=False, description="Whether activations are computed again rather than kept.")
    validate_every: int = Field(default=250, ge=1, le=MOST, description="Steps between validations.")
    checkpoint_every: int = Field(default=250, ge=1, le=MOST, description="Steps between checkpoints.")
    keep: int = Field(default=3, ge=1, le=MOST, description="How many of the newest checkpoints are kept.")
    keep_every: int = Field(default=0, ge=0, le=MOST, description="Every n-th checkpoint is kept for good; 0: none.")
    best: str | None = Field(
        default=None, min_length=1,
        description="A figure of validations or probes: the checkpoint that is best by it is kept for good.",
    )  # fmt: skip
    log: Annotated[list[str | dict[str, JsonValue]], BeforeValidator(_loggers)] = Field(
        default=["tensorboard"],
        description="Where else the figures of metrics.jsonl go: `[tensorboard, {name: wandb, project: mine}]`.",
    )
    probes: list[Probe] = Field(
        default=[],
        description="Small evaluations during training: `[{every: 500, recall: [8, 64], windows: [8, 64]}, "
        '{every: 1000, needles: niah_single_1, lengths: 1k, samples: 20}, {every: 500, write: "def "}]`.',
    )
    probe_share: float = Field(
        default=0.1, ge=0, description="The most that probes may cost, as a share of the FLOPs of training."
    )
    until: Until | None = Field(
        default=None, description="Stop at the first figure within a bound: `{metric: val_loss, at_most: 1.5}`."
    )
    on_spike: Literal["stop", "skip", "rollback"] = Field(
        default="stop", description="What a spike of the loss leads to."
    )
    spike: float = Field(
        default=2.0, gt=0, description="A spike: a loss this many nats a token above the median of recent steps."
    )
    from_: Annotated[FromRun, BeforeValidator(_from_run)] | None = Field(
        default=None, alias="from", json_schema_extra=FIXED,
        description="A run whose newest weights to start from, with a new optimizer and schedule; those of another "
        "checkpoint: `{run: runs/a, checkpoint: best}`, or a step.",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _with_engine(cls, data: Any, info: ValidationInfo) -> Any:
        """The data with every field that the engine declares, checked by it."""
        if not isinstance(data, dict):
            return data
        own = [field.alias or name for name, field in cls.model_fields.items()]
        engine, registry = data.get("engine", cls.model_fields["engine"].default), _registry(info)
        if engine not in registry.names(ENGINE):
            return data  # refused by the field
        return {key: data[key] for key in own if key in data} | engine_fields(data, engine, own, registry)

    @model_validator(mode="after")
    def _falls(self, info: ValidationInfo) -> Self:
        if self.last_lr > self.lr and schedule_falls(self.schedule, _registry(info)):
            message = f"train.min_lr should be at most train.lr, {self.lr:g}, not {self.last_lr:g}"
            raise Misfit(message, ("train", "min_lr"), ("train", "lr"))
        return self

    @property
    def last_lr(self) -> float:
        """The learning rate at the end: `min_lr`, or its share of `lr`."""
        return self.lr * float(self.min_lr[:-1]) / 100 if isinstance(self.min_lr, str) else self.min_lr
