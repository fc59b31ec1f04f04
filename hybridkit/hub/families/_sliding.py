"""`layer_types` and `sliding_window`: which layers of a model have the one window, and positions of each type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybridkit.block import Block
from hybridkit.hub.calls import one, window
from hybridkit.hub.fields import Fields
from hybridkit.hub.rope import Arguments, object_of, stretched

FULL, SLIDING = "full_attention", "sliding_attention"
UNUSED = 4096  # the window of no layer, for classes that make its mask in any case


def layer_windows(fields: Fields, layers: int, usual: Sequence[bool]) -> list[int | None]:
    """The window of each layer. `usual`: the layers that have it where the config has no `layer_types`."""
    types = fields.each("layer_types", layers, FULL, SLIDING)
    sliding = [kind == SLIDING for kind in types] if types else list(usual)
    size = fields.whole("sliding_window", most=1 << 40) if any(sliding) else None
    fields.harmless("sliding_window")
    return [size if slides else None for slides in sliding]


def switched_windows(fields: Fields, layers: int, usual: Sequence[bool]) -> list[int | None]:
    """The same for classes with `use_sliding_window`. Raises UserError where that is false and a layer has a window."""
    if fields.switch("use_sliding_window"):
        return layer_windows(fields, layers, usual)
    if SLIDING in (fields.each("layer_types", layers, FULL, SLIDING) or ()):
        raise fields.wrong(
            "use_sliding_window", f"layer_types holds {SLIDING}: should be true, or full attention in all"
        )
    fields.harmless("sliding_window")
    return [None] * layers


def window_fields(attention: Sequence[Block], unused: int | None = None) -> dict[str, Any]:
    """The fields that say the windows of these blocks; `unused`: where none has any. Raises CannotSay for two sizes."""
    windows = [window(block) for block in attention]
    size = one([w for w in windows if w], "the window") if any(windows) else unused
    return {"layer_types": [SLIDING if w else FULL for w in windows], "sliding_window": size}


def rope_of_type(fields: Fields, kind: str, local: str | float) -> Arguments:
    """The positions of layers of this type, for classes where each type has its own.

    The older `rope_scaling` and `rope_theta` are those of full attention alone. `local`: the older field of the base of
    layers with a window, or what it is where there is none. Raises UserError.
    """
    parameters, scaling = object_of(fields, "rope_parameters"), object_of(fields, "rope_scaling")
    if strange := sorted(set(parameters) - {FULL, SLIDING}):
        raise fields.wrong("rope_parameters", f"should hold an object for each type of layer, and not {strange[0]}")
    said = object_of(Fields(parameters, fields.origin), kind) | (scaling if kind == FULL else {})
    fields.harmless("rope_theta", *([local] if isinstance(local, str) else []))
    base = said.pop("rope_theta", None) or _older_base(fields, kind, local)
    theta = Fields({"rope_theta": base}, fields.origin).number("rope_theta")
    if said.pop("partial_rotary_factor", fields.take("partial_rotary_factor", 1.0)) != 1:
        raise fields.wrong("rope_parameters", "partial_rotary_factor: this class turns whole heads")
    if said.pop("truncate", True) is not True:  # the class looks for it where a config of this form has none
        raise fields.wrong("rope_parameters", "truncate: this class rounds the range of yarn in any case")
    return {"theta": theta, **stretched(fields, "rope_parameters", said)}


def _older_base(fields: Fields, kind: str, local: str | float) -> Any:
    said = fields.take("rope_theta")
    if kind == FULL or isinstance(local, str):
        return fields.take("rope_theta" if kind == FULL else str(local))
    if said != local:
        raise fields.wrong("rope_theta", "transformers takes it for full attention alone; say rope_parameters for each"
                           f" of {FULL} and {SLIDING}")  # fmt: skip
    return local
