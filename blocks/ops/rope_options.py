"""The arguments by which a block says how its rotary positions are stretched for long texts (rope.py)."""

from __future__ import annotations

from math import log
from typing import Self

from pydantic import Field, model_validator

from hybridkit.block import Block
from hybridkit_blocks.ops.rope import Rope, ScalingKind, Stretch

_OF_KIND: dict[ScalingKind, tuple[float, tuple[str, ...]]] = {  # the usual `fast`, and the arguments beside `factor`
    "linear": (1.0, ()),
    "llama3": (4.0, ("original", "fast", "slow")),
    "yarn": (32.0, ("original", "fast", "slow", "truncate", "magnitude")),
}


class RopeOptions(Block):
    """`theta=null`: no positions. `scaling=yarn,factor=32,original=4096` stretches them."""

    scaling: ScalingKind | None = None
    factor: float = Field(1.0, ge=1)
    original: int = Field(0, ge=0)  # tokens of a sequence in the training before the stretch
    fast: float | None = Field(None, gt=0)  # a pair that turns at least so often in such a sequence keeps its frequency
    slow: float = Field(1.0, gt=0)  # one that turns at most so often has its frequency divided by the factor
    truncate: bool = True  # yarn: whether both ends are rounded to whole pairs
    magnitude: float | None = Field(None, gt=0)  # yarn: of rotated queries and keys; null: 1 + ln(factor) / 10

    @model_validator(mode="after")
    def _fits(self) -> Self:
        given = [
            name for name in RopeOptions.positional() if getattr(self, name) != RopeOptions.model_fields[name].default
        ]
        if self.scaling is None:
            if given:
                raise ValueError(f"{given[0]} needs scaling as well, as in scaling=yarn,factor=32,original=4096")
            return self
        fast, known = _OF_KIND[self.scaling]
        for name in given:
            if name not in ("scaling", "factor", *known):
                raise ValueError(
                    f"scaling={self.scaling} takes no {name}; it takes factor{''.join(f', {n}' for n in known)}"
                )
        if self.factor == 1:
            raise ValueError(f"scaling={self.scaling} needs a factor above 1: factor=8")
        if "original" in known and not self.original:
            raise ValueError(f"scaling={self.scaling} needs the length of the training before: original=4096")
        if known and self.slow >= (self.fast or fast):
            raise ValueError(
                f"slow={self.slow:g} is not below fast, which is {self.fast or fast:g}: choose a smaller one"
            )
        if not (theta := getattr(self, "theta", None)) or theta <= 1:
            raise ValueError(f"scaling={self.scaling} stretches positions: it needs a theta above 1")
        return self

    def rope_of(self, size: int, theta: float | None) -> Rope | None:
        """Positions on `size` channels, an even number; None where there are none."""
        if theta is None or not size:
            return None
        if self.scaling is None:
            return Rope(size, theta)
        fast = self.fast or _OF_KIND[self.scaling][0]
        yarn = 1 + log(self.factor) / 10 if self.scaling == "yarn" else 1.0
        stretch = Stretch(
            self.scaling, self.factor, self.original, fast, self.slow, self.truncate, self.magnitude or yarn
        )
        return Rope(size, theta, stretch)
