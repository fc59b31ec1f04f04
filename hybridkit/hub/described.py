"""A model that a config.json describes: compiled, and compared with the plan that the config.json was written for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from hybridkit.block import Block, window_limit, window_of
from hybridkit.hub.family import CannotSay, Described
from hybridkit.language.printer import canonical
from hybridkit.model.config import ModelConfig
from hybridkit.model.plan import Plan, compile_pattern
from hybridkit.model.residual import placement
from hybridkit.recipe.rules_version import CURRENT_RULES
from hybridkit.recipe.schema import Recipe

TRAINING = ("igate_bias", "start", "aux")  # arguments of blocks that a trained model does not depend on
_OPTIONS = ("norm_eps", "logit_cap", "residual_scale", "logit_scale")  # of the model


def recipe_of(described: Described, **data: Any) -> Recipe:
    """The recipe that says it. Raises ValidationError."""
    return Recipe.model_validate(
        {"pattern": canonical(described.calls), "model": described.model, "data": data, "rules": CURRENT_RULES}
    )


def compile_recipe(recipe: Recipe) -> Plan:
    """Its plan. Raises PatternError."""
    assert recipe.model.vocab
    return compile_pattern(recipe.pattern, ModelConfig.of(recipe, recipe.model.vocab))


def check_said(plan: Plan, described: Described, *, scales_rows: bool) -> None:
    """Raises CannotSay, naming the first difference, where what was written is not what `plan` computes.

    `scales_rows`: whether the factor on rows of the embedding is part of it; else it goes into the weights, of an
    untied model where that rounds nothing.
    """
    other = compile_recipe(recipe_of(described))
    if len(plan.entries) != len(other.entries):
        raise CannotSay(f"its stack has {len(other.entries)} entries, not {len(plan.entries)}")
    for index, (ours, theirs) in enumerate(zip(_entries(plan), _entries(other), strict=True)):
        if ours != theirs:
            raise CannotSay(f"entry {index} would be {_said(theirs)}, not {_said(ours)}")
    beside = any(len(entry.branches) > 1 for entry in plan.entries)
    rows = plan.config.row_scale
    if not scales_rows and not plan.config.tie and math.frexp(rows)[0] != 0.5:
        raise CannotSay(f"model.embedding_scale {rows:g} has no field there, and rounds weights that it is put into")
    for name in (*_OPTIONS, *(["branches"] if beside else []), *(["row_scale"] if scales_rows else [])):
        ours, theirs = (getattr(one.config, name) for one in (plan, other))
        if ours != theirs:
            raise CannotSay(f"model.{name} would be {theirs}, not {ours}")


def _entries(plan: Plan) -> Iterator[tuple[Any, ...]]:
    """Every entry by what it computes: its norms, and each block with all sizes and the window outside training."""
    for entry in plan.entries:
        blocks = [_plain(block.resolved(plan.dims)) for block in entry.branches]
        yield (placement(entry, plan.config), *blocks)


def _plain(block: Block) -> Block:
    usual = {name: field.get_default() for name, field in type(block).model_fields.items() if name in TRAINING}
    if getattr(block, "correction", 0):  # that there is one counts, and not the rate at which training moves it
        usual["correction"] = 1.0
    policy = window_of(block)
    plain = block.model_copy(update={**usual, "norm": None})
    return plain.model_copy(update={"window": window_limit(policy)}) if policy else plain


def _said(entry: tuple[Any, ...]) -> str:
    """What differs between two entries is among the arguments that are not at their default."""
    place, *blocks = entry
    told = [f"{block.name()}({', '.join(f'{name}={value}' for name, value in _arguments(block))})" for block in blocks]
    return " | ".join(told) + ("" if place == "pre" else f" with norm={place}")


def _arguments(block: Block) -> Iterator[tuple[str, Any]]:
    for name, field in type(block).model_fields.items():
        if getattr(block, name) != field.get_default() or name == "theta":
            yield name, getattr(block, name)
