"""The weights of a checkpoint as our model has them: names and shapes are checked first, then tensors are read."""

from __future__ import annotations

import difflib
from functools import reduce

import torch
from torch import Tensor

from hybridkit.hub.family import Family
from hybridkit.hub.files import Shards
from hybridkit.hub.weight_rules import Rule
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan
from hybridkit.runs.weights import weights_of
from hybridkit.system.errors import UserError

_ROWS = "embedding.weight"


def read_weights(family: Family, plan: Plan, shards: Shards, origin: str) -> dict[str, Tensor]:
    """Our weights by name, in the narrowest type that holds all of theirs exactly.

    Raises UserError, naming the tensor, for one that is missing, too many, misshapen, no float, or not finite.
    """
    names = {*shards}
    if len(plan.entries) > len(names):  # said before a model of wild depth is built
        few, many = len(names), len(plan.entries)
        raise UserError(
            f"{origin}: its {few} tensors are fewer than the {many} mixers and FFNs that config.json describes"
        )
    with torch.device("meta"):
        own = weights_of(Model(plan))
    rules = family.as_stored(family.rules(plan), names)
    assert sorted(name for rule in rules for name in rule.ours) == sorted(own)
    _check_names(family, plan, rules, shards, origin)
    kind = reduce(torch.promote_types, (one for rule in rules for one in _check_shapes(rule, own, shards, origin)))
    found: dict[str, Tensor] = {}
    for rule in rules:
        made = rule.to_ours([shards.read(name) for name in rule.theirs])
        if rule.packed and not all(torch.isfinite(tensor).all() for tensor in made):
            raise UserError(f"{origin}: {rule.theirs[-1]} makes numbers that are not finite (NaN or infinite)")
        found |= {name: t.to(kind).contiguous() for name, t in zip(rule.ours, made, strict=True)}
    _check_tied(family, plan, shards, found, origin)
    return found


def _check_names(family: Family, plan: Plan, rules: list[Rule], shards: Shards, origin: str) -> None:
    wanted = {name for rule in rules for name in rule.theirs}
    twin = {family.head} if plan.config.tie else set()
    extra = sorted(name for name in {*shards} - wanted - twin if not family.carries_nothing(name))
    for name in sorted(wanted - {*shards}):
        close = difflib.get_close_matches(name, extra, n=1)
        hint = f"; {close[0]} is there instead" if close else ""
        raise UserError(f"{origin}: {name} is missing, which the config asks for{hint}")
    if extra:
        raise UserError(f"{origin}: {extra[0]} has no place in the model that config.json describes"
                        + (f" (nor have {len(extra) - 1} others)" if extra[1:] else ""))  # fmt: skip


def _check_shapes(rule: Rule, own: dict[str, Tensor], shards: Shards, origin: str) -> list[torch.dtype]:
    """Carries the rule out on tensors without data; the types of what it makes."""
    given = [shards.like(name, rule.packed) for name in rule.theirs]
    try:
        made = rule.to_ours(given)
    except (RuntimeError, ValueError, IndexError):
        made = []
    if [tensor.shape for tensor in made] == [own[name].shape for name in rule.ours]:
        return [tensor.dtype for tensor in made]
    right = [tuple(tensor.shape) for tensor in rule.to_theirs([own[name] for name in rule.ours])]
    place = next((i for i, shape in enumerate(right) if shape != tuple(given[i].shape)), 0)
    raise UserError(
        f"{origin}: {rule.theirs[place]} has the shape {list(given[place].shape)}, and by config.json it is"
        f" {list(right[place])}"
    )


def _check_tied(family: Family, plan: Plan, shards: Shards, found: dict[str, Tensor], origin: str) -> None:
    """A head that a tied model's file holds all the same must be the embedding."""
    if plan.config.tie and family.head in {*shards}:
        head, rows = shards.read(family.head), found[_ROWS]
        if head.shape != rows.shape or not torch.equal(head.to(rows.dtype), rows):
            raise UserError(
                f"{origin}: {family.head} is not the embedding, although config.json ties them"
                " (tie_word_embeddings): set that to false if the head is right"
            )
