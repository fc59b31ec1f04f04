"""Window policies: which window a layer has at a step."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from hybridkit.block.spec import Spec


@dataclass(frozen=True)
class TrainStep:
    """Where training stands. Steps count from 0; a step is one optimizer update."""

    seed: int
    step: int
    total_steps: int
    training: bool = True

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
        """The long-run share of training steps at each window; the shares add up to 1."""
