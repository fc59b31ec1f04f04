"""What a recipe may say: its fields, their defaults, ranges and meanings (docs/recipes.md is made from them)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo

from hybridkit.recipe.choices import ENGINE, check_choice, declared, engine_fields, optimizer_choice
from hybridkit.recipe.rules import CURRENT_RULES
from hybridkit.registry.registry import REGISTRY, Registry

FIXED: dict[str, JsonValue] = {"fixed": True}  # marks fields (of sections: all of theirs) that --resume may not change

MOST = 10**12  # of steps, and of whatever else is counted without a limit of its own


class Misfit(ValueError):
    """Two fields that do not go together; `paths` lead to them."""

    def __init__(self, message: str, *paths: tuple[str, str]) -> None:
        super().__init__(message)
        self.paths = paths


def read_size(text: str) -> int:
    """A size as people write it: 131072, 128k (k = 1024) or 1M (M = 1024 * 1024). Raises ValueError for other text."""
    found = re.fullmatch(r"([0-9]{1,18})([kM]?)", text)
    if not found:
        raise ValueError("should be a whole number, which k (1024) or M (1024 * 1024) may follow")
    return int(found[1]) * {"": 1, "k": 1 << 10, "M": 1 << 20}[found[2]]


def _known_rules(version: int) -> int:
    if not 1 <= version <= CURRENT_RULES:
        raise ValueError(f"should be 1 to {CURRENT_RULES}; a newer hybridkit may know others")
    return version


def _with_block(ffn: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(ffn.get("block", ""), str):
        raise ValueError("should name its block, as in {block: ffn}")
    return {"block": "ffn", **ffn}


def _registry(info: ValidationInfo) -> Registry:
    """What the recipe may name: `context={"registry": ...}` of `model_validate`."""
    return (info.context or {}).get("registry", REGISTRY)


def _engine(name: str, info: ValidationInfo) -> str:
    return check_choice(ENGINE, name, _registry(info))


def _optimizer(said: Any, info: ValidationInfo) -> str | dict[str, Any]:
    return optimizer_choice(said, _registry(info))


Size = Annotated[int, BeforeValidator(lambda value: read_size(value) if isinstance(value, str) else value)]
Switch = Annotated[bool, Field(strict=False)]  # YAML 1.2 reads yes, no, on and off as text; pydantic as what they mean
Scalar = int | float | str | bool | None
NormPlacement = Literal["pre", "post", "both", "none"]
Combination = Literal["sum", "mean_norm"]
Share = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Fields that belong together: frozen, other names refused, no value taken for one of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def usage(cls) -> tuple[str, ...]:
        """Its fields, as `hybridkit blocks --all` lists them: `zero=1`."""
        return tuple(
            name if field.is_required() else f"{name}={json.dumps(field.get_default(call_default_factory=True))}"
            for name, field in cls.model_fields.items()
        )


class Model(Section):
    """Sizes of the model around the pattern."""

    width: int = Field(default=256, ge=1, le=1 << 20, description="Width of the residual stream.")
    heads: int = Field(default=4, ge=1, le=1 << 16, description="Heads of blocks that are given none of their own.")
    vocab: Size | None = Field(
        default=None,
        ge=1,
        le=1 << 24,
        description="Rows of the embedding; null: the tokenizer's tokens. More of them pad.",
    )
    tie: Switch = Field(
        default=False,
        description="Whether embedding and head share their weights.",
    )
    logit_cap: float | None = Field(
        default=None, gt=0, description="Soft cap c of the logits: c tanh(x / c); null: none."
    )
    norm_eps: float = Field(default=1e-6, gt=0, le=1, description="Added to mean squares in RMS norms.")
    embedding_scale: float | None = Field(
        default=None,
        gt=0,
        description="Factor on rows of the embedding as input; null: sqrt(width) where tied, else 1.",
    )
    residual_scale: float = Field(
        default=1.0, gt=0, description="Factor on what every entry adds to the residual stream."
    )
    logit_scale: float = Field(default=1.0, gt=0, description="Factor on the logits, before `logit_cap`.")
    norm: NormPlacement = Field(
        default="pre",
        description="Where an entry is normalized: before its block, after it, both, or not at all. A block's own "
        "`norm=` in the pattern goes first.",
    )
    branches: Combination = Field(
        default="sum",
        description="What becomes of branches side by side: their sum, or their mean, each behind a norm of its own.",
    )
    ffn: Annotated[dict[str, Scalar], AfterValidator(_with_block)] | None = Field(
        default=_with_block({}),
        description="The block that follows every mixer, and its arguments; null: none. "
        "A pattern that itself names a block which does not mix gets none added.",
    )


class Data(Section):
    """What is trained on."""

    source: str = Field(
        default="stdlib",
        min_length=1,
        description="`stdlib` (the interpreter's own library), a file, a folder or a glob.",
    )
    field: str = Field(
        default="text", min_length=1, description="The field of rows (JSONL, JSON, CSV, Parquet) that holds the text."
    )
    tokenizer: str = Field(
        default="bytes", min_length=1, description="`bytes` (257 tokens), a tokenizer's JSON file, or `train(V)`: BPE."
    )
    sequence: Size = Field(
        default=1024, ge=1, le=1 << 30, description="Tokens of a training sequence; k and M allowed."
    )
    documents: Literal["reset", "flow"] = Field(
        default="reset", description="Whether states and attention stop at the end of a document, or flow on."
    )
    validation: float = Field(default=0.02, gt=0, lt=1, description="Share of the text that is held out.")


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


class Recipe(Section):
    """A model, its data and its training. `vocab: null` is for the data to fill in."""

    pattern: str = Field(json_schema_extra=FIXED, description="The stack of layers (docs/pattern.md).")
    model: Model = Field(default=Model(), json_schema_extra=FIXED, description="Sizes.")
    data: Data = Field(default=Data(), json_schema_extra=FIXED, description="Text.")
    train: Train = Field(default_factory=Train, description="Optimization.")
    rules: Annotated[int, AfterValidator(_known_rules)] | None = Field(
        default=None, json_schema_extra=FIXED,
        description="Version of the rules that a run was made by, which `train` writes; null: the current ones.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _whole_sequences(self) -> Self:
        tokens, sequence = self.train.batch_tokens, self.data.sequence
        if tokens % sequence:
            message = f"train.batch_tokens should be a multiple of data.sequence, {sequence}, not {tokens}"
            raise Misfit(message, ("train", "batch_tokens"), ("data", "sequence"))
        return self


class Leaf(NamedTuple):
    """A field that holds a value: its dotted key as YAML writes it, its attribute path, and what it may be."""

    key: str
    attribute: str
    info: FieldInfo
    fixed: bool


def leaves(registry: Registry = REGISTRY) -> Iterator[Leaf]:
    """All fields of a recipe that hold values, in the order of the schema; those of engines follow `train.engine`."""
    for name, info in Recipe.model_fields.items():
        section = info.annotation
        if not (isinstance(section, type) and issubclass(section, Section)):
            yield Leaf(name, name, info, _fixed(info))
            continue
        for inner, leaf in section.model_fields.items():
            yield Leaf(f"{name}.{leaf.alias or inner}", f"{name}.{inner}", leaf, _fixed(info) or _fixed(leaf))
            if leaf is Train.model_fields["engine"]:
                for field, said in declared(ENGINE, registry):
                    yield Leaf(f"{name}.{field}", f"{name}.{field}", said, _fixed(said))


def _fixed(info: FieldInfo) -> bool:
    return info.json_schema_extra == FIXED
