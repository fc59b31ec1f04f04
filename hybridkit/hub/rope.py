"""Rotary positions in a config.json, both ways: base, share of the head, and how they are stretched for long texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hybridkit.block import Block
from hybridkit.hub.fields import Fields, is_number

Arguments = dict[str, Any]  # of a block, by name

_KNOWN = {  # of each `rope_type`: their fields and our arguments
    "default": {},
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor", "original_max_position_embeddings": "original",
        "high_freq_factor": "fast", "low_freq_factor": "slow",
    },
    "yarn": {
        "factor": "factor", "original_max_position_embeddings": "original", "beta_fast": "fast", "beta_slow": "slow",
        "truncate": "truncate", "attention_factor": "magnitude",
    },
}  # fmt: skip
_REQUIRED = {  # as transformers requires them; what is left out has the value of _USUAL
    "linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor"), "yarn": ("factor",),
}  # fmt: skip
_USUAL = {"beta_fast": 32.0, "beta_slow": 1.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "truncate": True}


def rope_arguments(fields: Fields, *, shares: bool = False) -> Arguments:
    """The arguments of attention that say what the config says, for classes with the same positions in all layers.

    Read are `rope_parameters`, or the older `rope_scaling`, `rope_theta` and `partial_rotary_factor`. `shares`: whether
    the class turns the share of a head that the config says; the others turn all of it. Raises UserError.
    """
    scaling, parameters = object_of(fields, "rope_scaling"), object_of(fields, "rope_parameters")
    if scaling and parameters and scaling != parameters:
        raise fields.wrong("rope_scaling", "rope_parameters says other positions; keep the one that is right")
    name, said = ("rope_scaling", scaling) if scaling else ("rope_parameters", parameters)
    base = said.pop("rope_theta", fields.take("rope_theta"))
    inside = "partial_rotary_factor" in said
    share = said.pop("partial_rotary_factor", fields.take("partial_rotary_factor", 1.0))
    if share != 1 and not (shares and is_number(share) and 0 < share < 1):
        why = "should be a number above 0, at most 1" if shares else "this class turns whole heads"
        where, prefix = (name, "partial_rotary_factor: ") if inside else ("partial_rotary_factor", "")
        raise fields.wrong(where, prefix + why)
    found = {"theta": Fields({"rope_theta": base}, fields.origin).number("rope_theta")}
    return found | ({"rope": share} if share != 1 else {}) | stretched(fields, name, said)


def object_of(fields: Fields, name: str) -> dict[str, Any]:
    """A field that is an object, without what is null in it."""
    said = fields.take(name, {})
    if not isinstance(said, dict):
        raise fields.wrong(name, "should be an object")
    return {key: value for key, value in said.items() if value is not None}


def stretched(fields: Fields, name: str, said: dict[str, Any]) -> Arguments:
    """How positions are stretched for long texts."""
    kind = said.pop("rope_type", said.pop("type", "default"))
    said.pop("type", None)
    if kind == "default" and not said:
        return {}
    if not isinstance(kind, str) or kind not in _KNOWN:
        raise fields.wrong(name, f"positions of type {kind!r} are not known here")
    return _stretch(fields, name, kind, said)


def _stretch(fields: Fields, name: str, kind: str, said: dict[str, Any]) -> Arguments:
    magnitudes = [said.pop(key, None) for key in ("mscale", "mscale_all_dim")] if kind == "yarn" else [None]
    if strange := sorted(set(said) - set(_KNOWN[kind])):
        raise fields.wrong(name, f"{strange[0]} is not known here")
    if kind == "default":
        raise fields.wrong(name, f"{sorted(said)[0]} means nothing without a rope_type")
    if missing := [key for key in _REQUIRED[kind] if key not in said]:
        raise fields.wrong(name, f"{missing[0]} is missing, which positions of type {kind} need")
    numbers = {key: value for key, value in said.items() if key != "truncate"}
    if not all(is_number(value) and value > 0 for value in numbers.values()):
        raise fields.wrong(name, "its numbers should be above 0")
    if not all(one is None or (is_number(one) and one >= 0) for one in magnitudes):
        raise fields.wrong(name, "mscale and mscale_all_dim should be numbers, 0 or above")
    given = [one for one in magnitudes if one]
    if len(given) == 2 and "attention_factor" not in said:
        top, bottom = (0.1 * one * math.log(said["factor"]) + 1 for one in given)
        said["attention_factor"] = top / bottom
    if kind != "linear" and "original_max_position_embeddings" not in said:
        said["original_max_position_embeddings"] = fields.whole("max_position_embeddings", most=1 << 40)
    found = {_KNOWN[kind][theirs]: value for theirs, value in said.items() if value != _USUAL.get(theirs)}
    return {"scaling": kind, **found}


def rope_fields(block: Block) -> Mapping[str, Any]:
    """`rope_parameters` of a block's positions; those of a block without any are not asked for."""
    get = lambda name, usual=None: getattr(block, name, usual)  # noqa: E731
    said: dict[str, Any] = {"rope_theta": get("theta") or 10000.0, "rope_type": get("scaling") or "default"}
    if get("rope", 1.0) != 1:
        said["partial_rotary_factor"] = get("rope")
    for theirs, ours in _KNOWN[said["rope_type"]].items():
        if (value := get(ours)) is None:
            value = _USUAL.get(theirs)
        if value is not None:  # attention_factor: both sides have the same default
            said[theirs] = value
    return said
