"""The section `train` of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, JsonValue, ValidationInfo, model_validator

from hybridkit.recipe.choices import ENGINE, check_choice, engine_fields, optimizer_choice
from hybridkit.recipe.section import FIXED, MOST, Misfit, Section, Share, Size, Switch
from hybridkit.registry.registry import REGISTRY, Registry


def _registry(info: ValidationInfo) -> Registry:
    """What the recipe may name: `context={"registry": ...}` of `model_validate`."""
    return (info.context or {}).get("registry", REGISTRY)


def _engine(name: str, info: ValidationInfo) -> str:
    return check_choice(ENGINE, name, _registry(info))


def _optimizer(said: Any, info: ValidationInfo) -> str | dict[str, Any]:
    return optimizer_choice(said, _registry(info))


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
    min_lr: float = Field(default=1e-4, ge=0, description="Last learning rate; at most lr.")
    warmup: Share = Field(default=0.01, description="Share of the steps in which the rate rises.")
    schedule: Literal["cosine", "wsd", "constant"] = Field(
        default="cosine", description="How the rate falls: along a cosine, only towards the end (wsd), or not at all."
    )
    weight_decay: float = Field(default=0.1, ge=0, description="AdamW's; none on norms, biases and gates.")
    betas: Annotated[tuple[Share, Share], Field(strict=False)] = Field(default=(0.9, 0.95), description="AdamW's.")
    clip: float | None = Field(default=1.0, gt=0, description="Largest norm of the gradient; null: no clipping.")
    seed: int = Field(
        default=0, ge=0, lt=1 << 63, json_schema_extra=FIXED, description="Of initial weights, data order and windows."
    )
    optimizer: Annotated[str | dict[str, JsonValue], BeforeValidator(_optimizer)] = Field(
        default="adamw", description="An optimizer, or `{name: ..., field: ...}` with fields of its own."
    )
    engine: Annotated[str, AfterValidator(_engine)] = Field(
        default="local", description="`local`: plain torch in one process; `deepspeed`: DeepSpeed, on several ranks."
    )
    precision: Literal["auto", "fp32", "bf16", "fp64"] = Field(
        default="auto", description="Of the arithmetic; auto: bf16 where the machine computes in it, else fp32."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: cuda where there is one.")
    compile: Switch = Field(default=False, description="Whether torch.compile is used.")
    recompute: Switch = Field(default=False, description="Whether activations are computed again rather than kept.")
    validate_every: int = Field(default=250, ge=1, le=MOST, description="Steps between validations.")
    checkpoint_every: int = Field(default=250, ge=1, le=MOST, description="Steps between checkpoints.")
    keep: int = Field(default=3, ge=1, le=MOST, description="How many of the newest checkpoints are kept.")
    keep_every: int = Field(default=0, ge=0, le=MOST, description="Every n-th checkpoint is kept for good; 0: none.")
    on_spike: Literal["stop", "skip", "rollback"] = Field(
        default="stop", description="What a spike of the loss leads to."
    )
    spike: float = Field(
        default=2.0, gt=0, description="A spike: a loss this many nats a token above the median of recent steps."
    )
    from_: str | None = Field(
        default=None, alias="from", min_length=1, json_schema_extra=FIXED,
        description="A run whose weights to start from, with a new optimizer and schedule.",
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
    def _falls(self) -> Self:
        if self.schedule != "constant" and self.min_lr > self.lr:
            message = f"train.min_lr should be at most train.lr, {self.lr:g}, not {self.min_lr:g}"
            raise Misfit(message, ("train", "min_lr"), ("train", "lr"))
        return self
