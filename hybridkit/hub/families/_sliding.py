"""`layer_types` and `sliding_window`: which layers of a model have the one window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybridkit.block import Block
from hybridkit.hub.calls import one, window
from hybridkit.hub.fields import Fields

FULL, SLIDING = "full_attention", "sliding_attention"


def layer_windows(fields: Fields, layers: int, usual: Sequence[bool]) -> list[int | None]:
    """The window of each layer. `usual`: the layers that have it where the config has no `layer_types`."""
    types = fields.each("layer_types", layers, FULL, SLIDING)
    sliding = [kind == SLIDING for kind in types] if types else list(usual)
    size = fields.whole("sliding_window", most=1 << 40) if any(sliding) else None
    fields.harmless("sliding_window")
    return [size if slides else None for slides in sliding]


def window_fields(attention: Sequence[Block]) -> dict[str, Any]:
    """The fields that say the windows of these blocks. Raises CannotSay for two sizes."""
    windows = [window(block) for block in attention]
    size = one([w for w in windows if w], "the window") if any(windows) else None
    return {"layer_types": [SLIDING if w else FULL for w in windows], "sliding_window": size}
