"""What a recipe may say: its fields, their defaults, ranges and meanings (docs/recipes.md is made from them)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from hybridkit.recipe.choices import ENGINE, UnknownKey, declared
from hybridkit.recipe.convert import Convert
from hybridkit.recipe.rules_version import CURRENT_RULES
from hybridkit.recipe.section import (
    FIXED,
    MOST,
    Combination,
    Misfit,
    Scalar,
    Section,
    Share,
    Size,
    Switch,
    read_size,
)
from hybridkit.recipe.train import Train
from hybridkit.registry.registry import REGISTRY, Registry
from hybridkit.system.choices import Documents, NormPlacement
from hybridkit.system.pydantic_errors import first_error

__all__ = ["FIXED", "MOST", "Data", "Leaf", "Misfit", "ModelOptions", "Recipe", "Scalar", "Section", "Share", "Size"]
__all__ += ["Switch", "Train", "leaves", "read_size"]


def _known_rules(version: int) -> int:
    if not 1 <= version <= CURRENT_RULES:
        raise ValueError(f"should be 1 to {CURRENT_RULES}; a newer hybridkit may know others")
    return version


def _with_block(ffn: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(ffn.get("block", ""), str):
        raise ValueError("should name its block, as in {block: ffn}")
    return {"block": "ffn", **ffn}


class ModelOptions(Section):
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


class MixtureSource(Section):
    """A source of a mixture: its weight against the others, and its name in metrics, which is the source's own text
    where none is given."""

    source: str = Field(min_length=1)
    weight: float = Field(default=1.0, ge=0, le=1e6)  # so that sums are finite
    name: str | None = Field(default=None, min_length=1)


def _source(said: Any) -> str | list[MixtureSource]:
    if isinstance(said, str) and said:
        return said
    if not isinstance(said, list) or not said:
        raise ValueError("should be a source, or a list of {source: ..., weight: ...}")
    parts = []
    for number, one in enumerate(said):
        try:
            parts.append(MixtureSource.model_validate({"source": one} if isinstance(one, str) else one))
        except ValidationError as error:
            if extra := [str(one["loc"][0]) for one in error.errors() if one["type"] == "extra_forbidden"]:
                raise UnknownKey(extra[0], [*MixtureSource.model_fields]) from None
            raise ValueError(f"part {number}: {first_error(error)}") from None
    if not any(part.weight for part in parts):
        raise ValueError("should have a part whose weight is above 0")
    names = [part.name or part.source for part in parts]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"has two parts called {twice}: give each a name of its own")
    return parts


def _validation(said: Any) -> float | str | dict[str, str]:
    if isinstance(said, float) and 0 < said < 1:
        return said
    if isinstance(said, str) and said:
        return said
    if isinstance(said, dict) and said and all(isinstance(one, str) and one for pair in said.items() for one in pair):
        return said
    raise ValueError("should be a share between 0 and 1, a source, or a mapping of names to sources")


class Data(Section):
    """What is trained on."""

    source: Annotated[str | list[MixtureSource], BeforeValidator(_source)] = Field(
        default="stdlib",
        description="`stdlib` (the interpreter's own library), a file, a folder or a glob; or a mixture: "
        "`[{source: ..., weight: .7}, ...]`.",
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
    documents: Documents = Field(
        default="reset", description="Whether states and attention stop at the end of a document, or flow on."
    )
    validation: Annotated[float | str | dict[str, str], BeforeValidator(_validation)] = Field(
        default=0.02,
        description="Share of the text that is held out; or a source of its own, or several as `{name: source}`, whose "
        "first is `val_loss`.",
    )

    @property
    def texts(self) -> list[str]:
        """The sources that it names, for training and for validation."""
        named = self.validation.values() if isinstance(self.validation, dict) else [self.validation]
        trained = [self.source] if isinstance(self.source, str) else [part.source for part in self.source]
        return list(dict.fromkeys([*trained, *(text for text in named if isinstance(text, str))]))


class Recipe(Section):
    """A model, its data and its training. `vocab: null` is for the data to fill in."""

    pattern: str = Field(json_schema_extra=FIXED, description="The stack of layers (docs/pattern.md).")
    model: ModelOptions = Field(default=ModelOptions(), json_schema_extra=FIXED, description="Sizes.")
    data: Data = Field(default=Data(), json_schema_extra=FIXED, description="Text.")
    train: Train = Field(default_factory=Train, description="Optimization.")
    convert: Convert | None = Field(
        default=None,
        description="How `hybridkit convert` makes a trained model this one: "
        "`{preset, keep, stages: [{steps, sequence, lr, train, loss}, ...]}` (docs/convert.md). "
        "`hybridkit train` takes no notice of it.",
    )
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

    @model_validator(mode="after")
    def _stages(self) -> Self:
        if self.convert:
            self.convert.check(self.train, self.data.sequence)
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
