"""What a model is beside its pattern: the `model:` section of a recipe, or the keywords of `hybridkit.build`.

A new option is a field of `hybridkit.recipe.schema.ModelOptions` and one of the same name here; a plan holds the
config, and the code where the option acts reads it there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from hybridkit.recipe.rules_version import CURRENT_RULES, SCALED_TIED_ROWS
from hybridkit.recipe.schema import Recipe
from hybridkit.recipe.section import Combination
from hybridkit.system.choices import NormPlacement


def _default_ffn() -> Mapping[str, Any]:
    return {"block": "ffn"}


@dataclass(frozen=True)
class ModelConfig:
    """The sizes and options of a model.

    `ffn` names the block that follows every mixer, with its arguments (None: none); it takes no part in comparisons,
    since a plan's entries already show it. `rules` is the version of the rules that the model is made by
    (`hybridkit.recipe.rules_version`).
    """

    width: int
    heads: int
    vocab: int
    tie: bool = False
    logit_cap: float | None = None
    norm_eps: float = 1e-6
    embedding_scale: float | None = None
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    norm: NormPlacement = "pre"
    branches: Combination = "sum"
    ffn: Mapping[str, Any] | None = field(default_factory=_default_ffn, compare=False)
    rules: int = CURRENT_RULES

    @classmethod
    def of(cls, recipe: Recipe, vocab: int) -> Self:
        """The config of a recipe whose tokenizer and weights come to `vocab` rows."""
        given = {one.name: getattr(recipe.model, one.name) for one in fields(cls) if hasattr(recipe.model, one.name)}
        return cls(**given | {"vocab": vocab, "rules": recipe.rules or CURRENT_RULES})

    def stack_options(self) -> dict[str, Any]:
        """What changes the function of the same weights, where it is not as in models that have no such options."""
        said = (("residual_scale", 1.0), ("logit_scale", 1.0), ("norm", "pre"), ("branches", "sum"))
        return {name: getattr(self, name) for name, default in said if getattr(self, name) != default}

    @property
    def row_scale(self) -> float:
        """The factor on a row of the embedding as input: sqrt(width) where the head shares it and needs it small."""
        if self.embedding_scale is not None:
            return self.embedding_scale
        return self.width**0.5 if self.tie and self.rules >= SCALED_TIED_ROWS else 1.0
