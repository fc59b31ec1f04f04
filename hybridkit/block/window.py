"""Window policies: which window a layer has at a step; and the types in which a window is passed on.

A window of w covers the w most recent positions, the token's own included. Where a signature takes or gives a window:

- `Window` is a policy, as a pattern names it;
- `WindowSize` is the type of a policy's argument that is a window, which a pattern may write as `all`;
- `GivenWindow` is one window for a block. None gives none: the block takes its default, the policy's largest window,
  or all positions where it has no policy;
- `WindowLimit` is how many positions a block then sees (`window_limit`). None: all positions.

A layer also takes a scalar tensor in place of the number, so that one compiled graph serves all windows of a policy.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from hybridkit.block.spec import ALL, Spec

GivenWindow = int | None  # None: the block's default
WindowSize = Annotated[int, BeforeValidator(lambda said: ALL if said == "all" else said), Field(ge=1)]
WindowLimit = int | None  # None: all positions


@dataclass(frozen=True)
class TrainStep:
    """Where training stands. Steps count from 0; a step is one optimizer update."""

    seed: int
    step: int
    total_steps: int
    training: bool = True
    sequence: int | None = None  # tokens of a row, for policies whose windows grow up to `all`

    @property
    def progress(self) -> float:
        """The fraction of the run that lies before this step, in [0, 1)."""
        return self.step / self.total_steps

    def uniform(self, index: int | None = None) -> float:
        """A uniform number in [0, 1) that depends on (seed, step) and, where given, the layer's index, alone.

        Hashed rather than drawn, so that ranks, recomputation and resumed runs all see the same one.
        """
        digest = hashlib.blake2b(f"{self.seed}/{self.step}/{index}".encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


class Window(Spec, ABC):
    """A window policy: which window a layer has at a step. Pure: it hashes, it never draws."""

    kind: ClassVar[str] = "window"

    @abstractmethod
    def __call__(self, step: TrainStep, index: int) -> int:
        """The window of entry `index` at this step; `largest` outside training. Same answer on every rank."""

    @property
    @abstractmethod
    def largest(self) -> int:
        """The largest window the policy ever gives: the one used outside training."""

    @abstractmethod
    def probabilities(self) -> Mapping[int, float]:
        """The share of all training steps that has each window; the shares add up to 1."""

    @property
    def needs_sequence(self) -> bool:
        """Whether its windows depend on the length of a row, as those between a number and `all` do."""
        return False

    def shares(self, sequence: int) -> Mapping[int, float]:
        """`probabilities` in rows of so many tokens, which a policy that needs their length gives here alone.

        Raises ValueError where such rows do not suit it.
        """
        return self.probabilities()

    def __str__(self) -> str:
        return super().__str__().replace(str(ALL), "all")


def window_limit(policy: Window | None, given: GivenWindow = None) -> WindowLimit:
    """How many positions a block with this policy sees: `given`, else the policy's largest; all without a policy."""
    limit = None if policy is None else given or policy.largest
    return None if limit == ALL else limit


def said_window(window: GivenWindow) -> int | str | None:
    """A window as metrics and messages write it: `all` where there is no limit."""
    return "all" if window == ALL else window


def meant_window(said: int | str | None) -> GivenWindow:
    """The window that `said_window` wrote."""
    return ALL if said == "all" else said  # type: ignore[return-value]
